"""SPANet: the suite of every model, published counts and costs."""

import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (6, 9),
    "depths": (1, 2),
    "heads": (1, 1),
    "mlp_ratio": 2.0,
    "radii": (2, 1),
    "residual_scales": (None, 1.0),
    # Of fewer taps than the published 7: every tap is compiled.
    "mixer_options": {"spectral_pooling": {"kernel_size": 3}},
    "num_classes": 5,
}


class SpaNetSuite(ModelSuite):
    family = "spanet"
    # The others differ in widths and depths; all are counted below.
    names = ("spanet_small",)
    small = (
        ModelCase(
            "spanet_small",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("spanet", SpaNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("spanet_small", 4.6),
        ("spanet_medium", 6.8),
        ("spanet_mediumX", 9.0),
        ("spanet_base", 12.0),
        ("spanet_baseX", 15.8),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.01, abs=0.05)


def test_mistakes():
    for fields in ({"radii": (2,)}, {"residual_scales": (None,)}):
        model = create_model("spanet_small", **{**TINY, **fields})
        (name,) = fields
        with pytest.raises(UserError, match=f"{name}=.*: expected 2 entries"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

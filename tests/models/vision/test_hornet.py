"""HorNet: the suite of every model, published counts and costs."""

import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (4, 8),
    "depths": (1, 2),
    "heads": (1, 1),
    "mlp_ratio": 2.0,
    "img_size": 16,
    "orders": (2, 3),
    "neighbourhoods": ("conv", "global_local"),
    # Of fewer taps than the published 7 x 7: every tap is compiled.
    "mixer_options": {"gn_conv": {"kernel_size": 3}},
    "num_classes": 5,
}


class HorNetSuite(ModelSuite):
    family = "hornet"
    # The others differ in widths and sizes of filters; all are counted below.
    names = ("hornet_tiny_gf",)
    small = (
        ModelCase(
            "hornet_tiny_gf",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (19, 26, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("hornet", HorNetSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("hornet_tiny_7x7", 4.0),
        ("hornet_tiny_gf", 3.9),
        ("hornet_small_7x7", 8.8),
        ("hornet_small_gf", 8.7),
        ("hornet_base_7x7", 15.6),
        ("hornet_base_gf", 15.5),
        ("hornet_large_7x7", 34.8),
        ("hornet_large_gf", 34.7),
        ("hornet_large_gf_img384", 101.8),
    ],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.01, abs=0.05)


def test_mistakes():
    model = create_model("hornet_tiny_7x7", **{**TINY, "orders": (2,)})
    with pytest.raises(UserError, match="expected 2 entries each"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

"""MS-MLP: the suite of every model, published counts, other mixers, and what is refused."""

import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite

TINY = "ms_mlp_tiny_patch4_shift5_224"


class MsMlpSuite(ModelSuite):
    family = "ms_mlp"
    # The others differ in widths and depths; all are counted below.
    names = (TINY,)
    small = (
        ModelCase(
            TINY,
            {
                "dims": (4, 6),
                "depths": (1, 2),
                "heads": (1, 1),
                "mlp_ratio": 2.0,
                "sizes": ((1, 3), (3, 1)),
                "distances": (-1, 2),
                "layer_scale": 0.5,
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (19, 26, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("ms_mlp", MsMlpSuite.names)


def test_the_defaults_of_the_released_code_are_a_field():
    # The code's kernels, which no configuration of the release keeps.
    sizes = ((1, 1, 3, 5, 7), (1, 1, 3, 5, 5), (1, 1, 3, 3, 3), (1, 1, 1, 1, 3))
    model = create_model(TINY, sizes=sizes, scan_layers=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 28_347_304


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sizes": ((1, 3, 3),)}, "expected 4 entries"),
        ({"distances": (1, 2)}, "expected one of each a group"),
        ({"mixer": ("mix_shift",) * 3}, "has 3 names; expected one or 4"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):
    model = create_model(TINY, **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

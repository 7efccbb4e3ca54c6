"""HaloNet: the suite of every model, attention that halves the map, and its tables."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.vision.halonet import HaloLayer
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (6, 8),
    "hidden_dims": (4, 4),
    "depths": (2, 1),
    "attention": ((1,), (0,)),
    "heads": (2, 1),
    "head_dim": 3,
    "block_size": 2,
    "halo": 1,
    "group_size": 2,
    "stem_dims": (2, 3),
    "num_classes": 5,
}


class HaloNetSuite(ModelSuite):
    family = "halonet"
    small = (
        ModelCase(
            "sehalonet33ts",
            {**TINY, "last_dim": 7},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (19, 26, 3)),
        ),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_reads_itself_and_what_is_around_it(stride):
    layer = HaloLayer(heads=1, block_size=2, halo=1, stride=stride)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    variables = nn.unbox(jax.jit(layer.init)(jax.random.key(1), x))
    y, pull = jax.vjp(lambda x: layer.apply(variables, x), x)
    assert y.shape == (1, 8 // stride, 8 // stride, 4)
    # The output at the block of rows 2, 3 and columns 4, 5.
    place = (0, 2 // stride, 4 // stride)
    rows, columns = np.nonzero(np.any(pull(jnp.zeros_like(y).at[place].set(1.0))[0][0], -1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 3, 6)


def test_first_entries_of_the_tables_are_of_no_key():
    layer = HaloLayer(heads=1, block_size=2, halo=1)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    params = nn.unbox(jax.jit(layer.init)(jax.random.key(1), x))["params"]
    assert params["relative_rows"].shape == (7, 4)
    other = {**params, "relative_rows": params["relative_rows"].at[:2].set(9.0)}
    one, two = (jax.jit(layer.apply)({"params": p}, x) for p in (params, other))
    np.testing.assert_array_equal(one, two)


def test_mistakes():
    images = jnp.zeros((1, 16, 16, 3))
    model = create_model("halonet26t", **{**TINY, "heads": (2,)})
    with pytest.raises(UserError, match="as many stages"):
        jax.eval_shape(model.init, jax.random.key(0), images)
    model = create_model("halonet26t", **{**TINY, "heads": (3, 1)})
    with pytest.raises(ValueError, match="heads=3 do not divide 4 channels"):
        jax.eval_shape(model.init, jax.random.key(0), images)

"""The MLP with shifts: a convolution whose kernels have a single one, between its layers."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.parts.shift_mlp import ShiftMlp
from scanmax.ops import reference


def test_its_hidden_layer_is_shifted():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    model = ShiftMlp(16, activation="relu")
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), x))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes
    )["params"]
    z = reference.shift_eight(x @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    expected = np.maximum(z, 0) @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    y = model.apply({"params": params}, x)
    chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="hidden=12"):
        ShiftMlp(12).init(jax.random.key(0), x)

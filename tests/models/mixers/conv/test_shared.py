"""Attention with shared convolutions: what it is with kernels as large as a token."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.mixers import create_mixer

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)


def drawn(mixer):
    shapes = nn.unbox(jax.eval_shape(mixer.init, jax.random.key(0), X))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def test_kernels_as_large_as_a_token_are_attentions_linear_maps():
    mixer, plain = (create_mixer(name, heads=2) for name in ("conv_share", "attention"))
    params = drawn(mixer)
    dense = {
        "qkv": {
            "kernel": params["input_kernel"].reshape(8, 3, 2, 4),
            "bias": params["input_bias"].reshape(3, 2, 4),
        },
        "out": {
            "kernel": params["output_kernel"].reshape(2, 4, 8),
            "bias": params["output_bias"],
        },
    }
    actual = mixer.apply({"params": params}, X)
    np.testing.assert_allclose(actual, plain.apply({"params": dense}, X), rtol=1e-4, atol=1e-5)


def test_maps_of_heads_are_three_kernels_each_and_one_back():
    mixer = create_mixer("conv_share", heads=3, options={"padding": "same"})
    params = jax.tree.map(np.asarray, drawn(mixer))
    assert {name: x.shape for name, x in params.items()} == {
        "input_kernel": (3, 3, 9),
        "input_bias": (9,),
        "output_kernel": (3, 3, 3),
        "output_bias": (1,),
    }

    def convolved(maps, kernel):  # [B, T, 2, 4], [3, 3]
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        places = [(i, j) for i in range(3) for j in range(3)]
        return sum(kernel[i, j] * padded[:, :, i : i + 2, j : j + 4] for i, j in places)

    maps, total = X.reshape(2, 5, 2, 4), params["output_bias"][0]
    for head in range(3):
        kernels = [3 * part + head for part in range(3)]
        query, key, value = (
            (convolved(maps, params["input_kernel"][..., n]) + params["input_bias"][n]).reshape(
                2, 5, 8
            )
            for n in kernels
        )
        weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(8))
        y = weights / weights.sum(-1, keepdims=True) @ value
        total = total + convolved(y.reshape(2, 5, 2, 4), params["output_kernel"][..., head])
    actual = mixer.apply({"params": params}, X)
    np.testing.assert_allclose(actual, total.reshape(X.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "full"}, "padding='full' is not one of valid, same"),
        ({"token_grid": (2, 3)}, r"token_grid=\(2, 3\): a token has 8 channels"),
    ],
)
def test_what_does_not_fit_is_told(options, message):
    mixer = create_mixer("conv_share", heads=2, options=options)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(mixer.init, jax.random.key(0), X)

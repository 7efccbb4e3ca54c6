"""DHVT's mixer against its equation, written head by head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from scanmax.models.mixers import create_mixer


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_it_is_its_equation(prefix):
    rng = np.random.default_rng(prefix)
    batch, length, dim, heads = 2, 5, 6, 3
    width, x = dim // heads, rng.normal(size=(2, 5, 6))
    with jax.enable_x64(True):
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mixer = create_mixer("head_tokens", heads=heads, prefix_tokens=prefix, **dtypes)
        shapes = jax.eval_shape(lambda: mixer.init(jax.random.key(0), jnp.asarray(x)))
        variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), nn.unbox(shapes))
        actual = np.asarray(mixer.apply(variables, jnp.asarray(x)))
    params = variables["params"]
    project = params["project"]["kernel"].reshape(width, dim)
    made = np.empty((batch, heads, dim))
    for head in range(heads):
        mean = x[:, :, head * width : (head + 1) * width].mean(1)
        token = (mean @ project + params["project"]["bias"].ravel()).reshape(batch, heads, width)
        token = token - token.mean(-1, keepdims=True)
        token = token / np.sqrt((token**2).mean(-1, keepdims=True) + 1e-5)
        token = token * params["norm"]["scale"] + params["norm"]["bias"]
        token = token * (1 + erf(token / 2**0.5)) / 2
        made[:, head] = token.reshape(batch, dim) + params["position"][head]
    joined = np.concatenate([x, made], 1)
    query, key, value = (
        np.einsum("btd,dhk->bthk", joined, params["qkv"]["kernel"][:, i]) + params["qkv"]["bias"][i]
        for i in range(3)
    )
    weights = softmax(np.einsum("bthk,bshk->bhts", query, key) / width**0.5, -1)
    y = np.einsum("bhts,bshk,hkd->btd", weights, value, params["out"]["kernel"])
    y += params["out"]["bias"]
    expected = y[:, :length].copy()
    expected[:, :prefix] += y[:, length:].mean(1, keepdims=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_it_has_no_causal_form():
    with pytest.raises(ValueError, match="no causal form"):
        create_mixer("head_tokens", heads=1, is_causal=True).init(
            jax.random.key(0), jnp.zeros((1, 2, 4))
        )

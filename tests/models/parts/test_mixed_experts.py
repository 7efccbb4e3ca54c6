"""Experts of two kinds: against a loop over tokens and the experts that each chose, in numpy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from scanmax.errors import UserError
from scanmax.models.parts.mixed_experts import MixedExperts
from scanmax.testing.model_suite import COMPILER_OPTIONS

DIM, HIDDEN, EXPERTS = 6, 4, 4
EXACT = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def kan(params, e, x):
    for layer in (1, 2):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        x = x * params[f"norm_scale{layer}"][e] + params[f"norm_bias{layer}"][e]
        bumps = 1 - np.tanh((x[:, None] - np.linspace(-2, 2, 8)) / 0.33) ** 2
        x = np.tensordot(bumps, params[f"coefficients{layer}"][e], 2)
    return x


def mlp(params, e, x):
    hidden = x @ params["fc1_kernel"][e] + params["fc1_bias"][e]
    return (hidden * special.ndtr(hidden)) @ params["fc2_kernel"][e] + params["fc2_bias"][e]


def loop(params, x, top_k, kans):
    """[B, T, D], one token and one of its experts at a time; and how many chose each."""
    params, y = jax.tree.map(np.asarray, params), np.zeros_like(x)
    taken, mlps = np.zeros(EXPERTS, int), EXPERTS - kans
    for place in np.ndindex(x.shape[:2]):
        p = special.softmax(x[place] @ params["router"]["kernel"])
        chosen = np.argsort(-p, kind="stable")[:top_k]
        for e in chosen:
            part = mlp(params, e, x[place]) if e < mlps else kan(params, e - mlps, x[place])
            y[place] += p[e] / p[chosen].sum() * part
            taken[e] += 1
    return y, taken


@pytest.mark.parametrize(("top_k", "kans"), [(2, None), (3, 1), (2, 4), (2, 0)])
def test_it_is_a_loop_over_tokens_and_their_experts(top_k, kans):
    layer = MixedExperts(HIDDEN, EXPERTS, top_k=top_k, kan_experts=kans, **EXACT)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, DIM))
    with jax.enable_x64(True):
        shapes = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)

        @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
        def run(params, x):
            def total(params):
                y, sown = layer.apply({"params": params}, x, train=True, mutable=["losses"])
                return jnp.sum(y**2), (y, sown)

            (_, (y, sown)), gradient = jax.value_and_grad(total, has_aux=True)(params)
            return y, sown, gradient, layer.apply({"params": params}, x)

        y, sown, gradient, evaluated = run(params, x)
    expected, taken = loop(params, x, top_k, layer.kans)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(y, evaluated)  # nothing is dropped, in training either
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(sown["losses"]))
    assert (taken > 0).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path


def test_what_nobody_chose_has_no_gradient():
    layer = MixedExperts(HIDDEN, EXPERTS, top_k=1, **EXACT)
    with jax.enable_x64(True):
        x = jnp.ones((1, 3, DIM), jnp.float64).at[0, :, 0].set(9.0)
        params = nn.unbox(layer.init(jax.random.key(0), x))["params"]
        kernel = params["router"]["kernel"]
        params["router"]["kernel"] = jnp.zeros_like(kernel).at[0, 3].set(5.0)  # the second KAN
        found = jax.grad(lambda p: jnp.sum(layer.apply({"params": p}, x)))(params)
    assert not np.any(found["fc1_kernel"])
    assert not np.any(found["coefficients1"][0])
    assert np.any(found["coefficients1"][1])
    assert np.any(found["norm_bias2"][1])


def test_what_does_not_fit_is_refused():
    x = jnp.zeros((1, 2, DIM))
    for fields, message in (
        ({"dropless": True}, "do without dropless"),
        ({"gated": True}, "do without dropless and gated"),
        ({"kan_experts": 5}, "expected 0 to num_experts=4"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(MixedExperts(HIDDEN, EXPERTS, **fields).init, jax.random.key(0), x)

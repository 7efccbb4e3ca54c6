"""Retention, GLA and the delta rules as modules, against their formulas in plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models.mixers import create_mixer

T, D, H = 6, 8, 2


def made(name, **fields):
    """The mixer, random parameters, tokens, and what it gives."""
    mixer = create_mixer(name, heads=H, is_causal=True, **fields)
    x = jax.random.normal(jax.random.key(0), (1, T, D))
    boxed = jax.eval_shape(lambda: mixer.init(jax.random.key(1), x))
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(boxed)
    params = tree.unflatten([jnp.asarray(rng.normal(size=v.shape) / 2, v.dtype) for v in leaves])
    y = mixer.apply(params, x)
    named = {}
    for path, value in jax.tree.leaves_with_path(params):
        keys = [k.key for k in path if hasattr(k, "key")]
        named[".".join(keys[1:])] = np.asarray(value, np.float64)
    return named, np.asarray(x[0], np.float64), np.asarray(y[0])


def project(p, name, x):
    y = np.tensordot(x, p[f"{name}.kernel"], 1)
    return y + p.get(f"{name}.bias", 0.0)


def out(p, y):
    return np.tensordot(y, p["out.kernel"], 2) + p.get("out.bias", 0.0)


def rms(y):
    return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def test_retention_is_its_double_sum():
    p, x, actual = made("retention")
    q, k, v, gate = (project(p, name, x) for name in ("query", "key", "value", "gate"))
    width = q.shape[-1]
    # pairs of neighbours as complex numbers, turned by frequencies from 1 to 1 / 10000
    angles = 10000.0 ** -np.linspace(0, 1, width // 2)
    phases = np.exp(1j * np.arange(T)[:, None, None] * angles)
    q, k = ((z[..., ::2] + 1j * z[..., 1::2]) * phases for z in (q, k))
    y = np.zeros_like(v)
    for h in range(H):
        gamma = 1 - 2.0 ** (-5 - h)
        for t in range(T):
            for s in range(t + 1):
                score = (q[t, h] * k[s, h].conj()).real.sum() / np.sqrt(width)
                y[t, h] += gamma ** (t - s) * score * v[s, h]
    np.testing.assert_allclose(actual, out(p, silu(gate) * rms(y)), rtol=1e-4, atol=1e-4)


def test_gla_is_its_double_sum():
    p, x, actual = made("gla", options={"gate_rank": 3})
    q, k, v, gate = (project(p, name, x) for name in ("query", "key", "value", "gate"))
    decays = sigmoid(project(p, "decay_out", project(p, "decay_in", x))) ** (1 / 16)
    y = np.zeros_like(v)
    for t in range(T):
        for s in range(t + 1):
            between = decays[s + 1 : t + 1].prod(0)
            y[t] += (q[t] * between * k[s]).sum(-1, keepdims=True) / np.sqrt(q.shape[-1]) * v[s]
    expected = out(p, silu(gate) * rms(y) * p["norm_scale"])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["delta", "gated_delta"])
def test_the_delta_rules_are_their_loops(name):
    p, x, actual = made(name, options={"key_factor": 1.0, "value_factor": 1.0})
    parts = [project(p, part, x).reshape(T, -1) for part in ("query", "key", "value")]
    padded = np.pad(np.concatenate(parts, -1), ((3, 0), (0, 0)))
    mixed = silu(sum(padded[i : i + T] * p["conv_kernel"][i] for i in range(4)))
    q, k, v = (part.reshape(T, H, -1) for part in np.split(mixed, 3, -1))
    q, k = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
    beta = sigmoid(project(p, "beta", x))
    alpha = np.ones((T, H))
    if name == "gated_delta":
        steps = np.log1p(np.exp(project(p, "decay", x) + p["dt_bias"]))
        alpha = np.exp(-np.exp(p["A_log"]) * steps)
    y = np.zeros_like(v)
    for h in range(H):
        state = np.zeros((q.shape[-1], v.shape[-1]))
        for t in range(T):
            state = alpha[t, h] * state
            state = state + beta[t, h] * np.outer(k[t, h], v[t, h] - state.T @ k[t, h])
            y[t, h] = state.T @ q[t, h] / np.sqrt(q.shape[-1])
    y = rms(y) * p["norm_scale"]
    y = y * silu(project(p, "gate", x)) if name == "gated_delta" else y
    np.testing.assert_allclose(actual, out(p, y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["retention", "delta"])
def test_on_a_grid_both_directions_are_seen(name):
    mixer = create_mixer(name, heads=H)
    x = jax.random.normal(jax.random.key(0), (1, 12, D))
    variables = mixer.init(jax.random.key(1), x, grid=(3, 4))
    _, sown = mixer.apply(variables, x, grid=(3, 4), mutable=["intermediates"])
    (matrix,) = sown["intermediates"]["attention"]
    assert matrix.shape == (1, H, 12, 12)
    assert float(jnp.abs(jnp.triu(matrix, 1)).max()) > 0
    assert float(jnp.abs(jnp.tril(matrix, -1)).max()) > 0

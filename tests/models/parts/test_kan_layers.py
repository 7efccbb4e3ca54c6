"""Layers of KAN networks: each kind is its equation, in numpy; what training adds has its size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy.interpolate import BSpline

from scanmax.errors import UserError
from scanmax.models.parts.kan_layers import KAN_LAYERS, KanConvNorm
from scanmax.testing.model_suite import COMPILER_OPTIONS

EXACT = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def silu(x):
    return x * special.expit(x)


def convolved(x, kernel, stride=2):
    """[B, Y, X, ...] with kernel [ky, kx, ..., O], a row of zeros around."""
    sides = ((0, 0), (1, 1), (1, 1)) if kernel.shape[0] == 3 else ((0, 0),) * 3
    x = np.pad(x, sides + ((0, 0),) * (x.ndim - 3))
    size, axes = kernel.shape[0], tuple(range(1, kernel.ndim))
    places = range(0, x.shape[1] - size + 1, stride)
    rows = [
        [
            np.tensordot(x[:, u : u + size, v : v + size], kernel, (axes, axes_of(kernel)))
            for v in places
        ]
        for u in places
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def axes_of(kernel):
    return tuple(range(kernel.ndim - 1))


def functions(kind, x, params):
    """[B, Y, X, C] to the functions [B, Y, X, C, N] of the released layers."""
    if kind == "kan":
        knots = np.linspace(-2.2, 2.2, 12)
        bases = [BSpline.basis_element(knots[i : i + 5], extrapolate=False)(x) for i in range(8)]
        return np.nan_to_num(np.stack(bases, -1))
    if kind == "fastkan":
        return np.exp(-(((x[..., None] - np.linspace(-2, 2, 8)) / (4 / 7)) ** 2))
    if kind == "kaln":
        x = 2 * (x - x.min()) / (x.max() - x.min()) - 1
        return np.stack([special.eval_legendre(n, x) for n in range(4)], -1)
    if kind == "kacn":
        return np.stack([np.cos(n * np.arccos(np.tanh(x))) for n in range(4)], -1)
    weight, x = params["functions"]["basis"]["weight"], np.tanh(x)
    terms = [np.ones_like(x), x]
    for m in (2, 3):
        n = m - 1
        beta = ((m + n) * (m - n) * n**2) / (m**2 / (4 * n**2 - 1)) * weight[n]
        terms.append(x * terms[-1] - beta * terms[-2])
    return silu(np.stack(terms, -1))


def expected(kind, x, params, average, reduction):
    def norm(y):
        scale, bias = params["norm"]["scale"], params["norm"]["bias"]
        return (y - average["mean"]) / np.sqrt(average["variance"] + 1e-5) * scale + bias

    bent = {"kan": lambda x: x * special.ndtr(x), "kaln": lambda x: x}.get(kind, silu)
    base = 0 if kind == "kacn" else convolved(bent(x), params["base"]["kernel"])
    if reduction:
        x = x @ params["squeeze"]["kernel"][0, 0]
    ours = params["functions"]
    if kind == "wavkan":
        u = (x[..., None] - ours["translation"]) / ours["scale"]
        hat = 2 / (np.sqrt(3) * np.pi**0.25) * (u**2 - 1) * np.exp(-(u**2) / 2)
        kernel = ours["kernel"]
        parts = [convolved(hat[..., o], kernel[..., o : o + 1]) for o in range(kernel.shape[-1])]
        y = np.concatenate(parts, -1) @ ours["out"]["kernel"][0, 0]
    else:
        y = functions(kind, norm(x) if kind == "fastkan" else x, params)
        y = convolved(y, ours["coefficients"])
    if reduction:
        y = y @ params["expand"]["kernel"][0, 0]
    y = y + base
    if kind == "fastkan":
        return y
    y = norm(y)
    if kind == "kan":
        return np.where(y > 0, y, params["slope"] * y)
    return y if kind in ("kacn", "wavkan") else silu(y)


@pytest.mark.parametrize(
    ("kind", "reduction"), [*((kind, None) for kind in KAN_LAYERS), ("kagn", 2)]
)
def test_a_layer_is_its_equation(kind, reduction):
    layer = KanConvNorm(4, stride=2, kind=kind, reduction=reduction, least_width=1, **EXACT)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 5, 3))
    with jax.enable_x64(True):
        shapes = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))
        values = jax.tree.map(lambda leaf: 0.5 + rng.random(leaf.shape), shapes)
        if kind == "kan":
            knots = np.tile(np.linspace(-2.2, 2.2, 12), (3, 1))
            values["batch_stats"]["functions"] = {"basis": {"knots": knots}}
        y = jax.jit(layer.apply, compiler_options=COMPILER_OPTIONS)(values, x)
    average = values["batch_stats"]["norm"]
    np.testing.assert_allclose(
        y, expected(kind, x, values["params"], average, reduction), rtol=1e-9, atol=1e-9
    )


def test_groups_do_not_see_each_other():
    """Their own range, wavelets and slopes; a map of one number is no division by zero."""
    for kind in ("kaln", "wavkan"):
        layer = KanConvNorm(4, 1, kind=kind, groups=2, norm_layer="instance", affine=False)
        x = jax.random.normal(jax.random.key(0), (1, 2, 2, 4))
        variables = layer.init(jax.random.key(1), x)
        y, moved = (layer.apply(variables, x.at[..., 2:].add(n)) for n in (0, x[..., 2:] ** 2))
        np.testing.assert_array_equal(y[..., :2], moved[..., :2])
        assert np.any(y[..., 2:] != moved[..., 2:])
        assert np.isfinite(layer.apply(variables, jnp.ones_like(x))).all()


def test_a_bottleneck_hears_noise_and_others_lose_channels():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))

    def heard(rate, **fields):
        layer = KanConvNorm(6, dropout_rate=rate, frozen_statistics=True, **fields)
        variables = layer.init(jax.random.key(1), x)
        rngs = {"dropout": jax.random.key(2)}
        return layer.apply(variables, x, True, rngs=rngs) - layer.apply(variables, x)

    layer = KanConvNorm(6, reduction=2, dropout_rate=0.25)
    rngs = {"dropout": jax.random.key(2)}
    noise = layer.apply({}, x, True, method="noisy", rngs=rngs) - x
    assert abs(np.mean(noise != 0) - 0.25) < 0.05
    assert abs(np.std(noise[noise != 0]) - 0.05) < 0.01
    for rate, reduction in ((0.25, 2), (0.9, None)):
        assert np.any(heard(rate, reduction=reduction))
        assert not np.any(heard(0.0, reduction=reduction))


def test_what_is_not_there_is_refused():
    x = jnp.zeros((1, 3, 3, 2))
    for fields, message in (
        ({"kind": "kagm"}, "did you mean 'kagn'"),
        ({"squash": "tan"}, "did you mean 'tanh'"),
        ({"norm_layer": "evonorm_s0", "affine": False}, "affine=False is of batch"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(KanConvNorm(2, **fields).init, jax.random.key(0), x)

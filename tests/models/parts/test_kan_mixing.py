"""Attention, focal modulation and experts of KAN convolutions: each is its equation, gradients too.

Layers within them are held to their own equations in test_kan_layers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.parts.kan_layers import KanConvNorm
from scanmax.models.parts.kan_mixing import KanAttention, KanFocalModulation, square_places
from scanmax.testing.model_suite import COMPILER_OPTIONS

EXACT = {"dtype": jnp.float64, "param_dtype": jnp.float64}
ALONE = {"norm_layer": "instance", "affine": False}


def numbers(layer, shape):
    """Random values of every parameter, and an input."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    shapes = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 2, shapes["params"]), x


def assert_same(layer, equation, params, x, atol=1e-9):
    """Outputs, and the gradients of a weighed sum of them."""
    weight = np.random.default_rng(1).normal(size=x.shape)

    def run(function):
        def loss(params, x):
            y = function(params, x)
            return jnp.sum(y * weight[..., : y.shape[-1]]), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)

    def both(params, x):
        own = run(lambda params, x: layer.apply({"params": params}, x))(params, x)
        return own, run(equation)(params, x)

    found, expected = jax.jit(both, compiler_options=COMPILER_OPTIONS)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, atol), found, expected)


def standardised(x):
    places = tuple(range(1, x.ndim - 1))
    return (x - x.mean(places, keepdims=True)) / jnp.sqrt(x.var(places, keepdims=True) + 1e-5)


def turned(tokens, angles):
    """Pairs of channels as complex numbers."""
    pairs = (tokens[..., 0::2] + 1j * tokens[..., 1::2]) * jnp.exp(1j * angles)
    return jnp.stack([pairs.real, pairs.imag], -1).reshape(tokens.shape)


@pytest.mark.parametrize("square", [False, True])
def test_attention_is_its_equation(square):
    layer = KanAttention(1, inner_dim=4, rotary="mixed", square=square, layer=ALONE, **EXACT)
    places = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    if square:
        # Rows of sqrt(5) places behind the first.
        side = 5**0.5
        places = [(0, 0)] + [(t % side, t // side) for t in range(5)]
    own = KanConvNorm(4, 1, **ALONE, **EXACT)

    def equation(params, x):
        y = x @ params["inner"]["kernel"][0, 0] + params["inner"]["bias"]
        query, key, value = (
            own.apply({"params": params[name]}, y).reshape(2, 6, 4)
            for name in ("query", "key", "value")
        )
        angles = jnp.asarray(places, float) @ params["frequency"]
        scores = turned(query, angles) @ turned(key, angles).swapaxes(1, 2)
        y = (jax.nn.softmax(scores, -1) @ value).reshape(2, 2, 3, 4)
        y = y @ params["outer"]["kernel"][0, 0] + params["outer"]["bias"]
        return standardised(params["gamma"] * x + y)

    with jax.enable_x64(True):
        params, x = numbers(layer, (2, 2, 3, 3))
        # float32 counts the places of the square.
        assert_same(layer, equation, params, x, 1e-5 if square else 1e-9)


def test_waves_of_every_length_stand_at_right_angles():
    x, lengths = jnp.zeros((1, 2, 3, 12)), 10.0 ** (-np.arange(3) / 3)
    layer = KanAttention(1, rotary="mixed", layer=ALONE)
    init = jax.jit(lambda key: nn.unbox(layer.init(key, x))["params"]["frequency"])
    first, other = jnp.split(init(jax.random.key(0)), 2, axis=1)
    for waves in (first, other):
        np.testing.assert_allclose(jnp.sqrt(jnp.sum(waves**2, 0)), lengths, rtol=1e-5)
        assert np.all(np.abs(waves) > 1e-3)
    np.testing.assert_allclose(jnp.sum(first * other, 0), 0, atol=1e-6)
    # Without learning each direction is an axis, the last first.
    fixed = KanAttention(rotary="axial").apply({}, (2, 2, 3), 12, method="angles")[0]
    lengths = 10.0 ** (-np.arange(2) / 2)
    np.testing.assert_allclose(fixed[-1], np.outer([2, 1, 1], lengths).ravel(), rtol=1e-5)


def test_places_in_a_square_and_waves_that_do_not_fit():
    assert square_places(5).tolist() == [[0, 0], [0, 0], [1, 0], [0, 1], [1, 1]]
    for fields, channels, message in (
        ({"rotary": "mix"}, 4, "did you mean 'mixed'"),
        ({"rotary": "axial"}, 6, "turns pairs: 6 channels"),
    ):
        with pytest.raises(UserError, match=message):
            KanAttention(**fields).apply({}, (2, 2), channels, method="angles")


@pytest.mark.parametrize(("full_kan", "levels"), [(True, 1), (False, 2)])
def test_focal_modulation_is_its_equation(full_kan, levels):
    layer = KanFocalModulation(1, levels, full_kan=full_kan, layer=ALONE, **EXACT)

    def equation(params, x):
        def pointwise(x, features, name, is_kan=full_kan):
            if not is_kan:
                return x @ params[name]["kernel"][0] + params[name]["bias"]
            own = KanConvNorm(features, 1, **ALONE, **EXACT)
            return own.apply({"params": params[name]}, x)

        joined = pointwise(x, 4 + levels + 1, "context")
        query, context, gates = joined[..., :2], joined[..., 2:4], joined[..., 4:]
        total = 0.0
        for level, size in enumerate((1, 3)[:levels]):
            parts = []
            for c in range(2):
                # Each channel is a layer of its own; what makes Gram's functions is one for all.
                alone = KanConvNorm(1, size, **ALONE, **EXACT)
                ours = dict(params[f"focal{level}"])
                ours = {
                    "base": {"kernel": ours["base"]["kernel"][..., c : c + 1]},
                    "functions": {
                        "basis": ours["functions"]["basis"],
                        "coefficients": ours["functions"]["coefficients"][..., c : c + 1],
                    },
                }
                parts.append(alone.apply({"params": ours}, context[..., c : c + 1]))
            context = jnp.concatenate(parts, -1)
            total = total + context * gates[..., level : level + 1]
        total = (total + total.mean(1, keepdims=True) * gates[..., levels:]) / (levels + 1)
        y = standardised(query * pointwise(total, 2, "modulator"))
        return pointwise(y, 2, "proj", True)

    with jax.enable_x64(True):
        params, x = numbers(layer, (2, 5, 2))
        if full_kan:
            # Gradients of these layers are KanConvNorm's own.
            found = jax.jit(layer.apply, compiler_options=COMPILER_OPTIONS)({"params": params}, x)
            np.testing.assert_allclose(found, equation(params, x), 1e-9, 1e-9)
        else:
            assert_same(layer, equation, params, x)


@pytest.mark.parametrize("reduction", [None, 2])
def test_experts_are_their_sum(reduction):
    """Every example by its own two of three, in the sizes of their probabilities."""
    fields = {"reduction": reduction, "least_width": 1, **ALONE, **EXACT}
    experts = {"num_experts": 3, "top_k": 2}
    layer = KanConvNorm(4, experts=experts, **fields)
    one = KanConvNorm(4, **fields)

    def equation(params, x):
        told = x if reduction is None else x @ params["squeeze"]["kernel"][0]
        p = jax.nn.softmax(told.mean(1) @ params["routed"]["router"]["kernel"], -1)
        p = jnp.where(p > p.min(1, keepdims=True), p, 0.0)
        p = p / (p.sum(1, keepdims=True) + 1e-6)
        routed, y = params["routed"]["experts"], 0.0
        for e in range(3):
            own = jax.tree.map(lambda leaf, e=e: leaf[e], routed)
            if reduction is None:
                part = one.apply({"params": own}, x)
            else:
                basis = nn.silu(ops.gram_basis(jnp.tanh(told), own["basis"]["weight"]))
                padded = jnp.pad(basis, ((0, 0), (1, 1), (0, 0), (0, 0)))
                kernel = own["coefficients"]
                seen = [padded[:, i : i + x.shape[1]] for i in range(3)]
                part = sum(jnp.einsum("btcn,cno->bto", z, k) for z, k in zip(seen, kernel))
            y = y + p[:, e, None, None] * part
        if reduction is None:
            return y
        bent = jnp.pad(nn.silu(x), ((0, 0), (1, 1), (0, 0)))
        base = [bent[:, i : i + x.shape[1]] @ params["base"]["kernel"][i] for i in range(3)]
        return nn.silu(standardised(y @ params["expand"]["kernel"][0] + sum(base)))

    with jax.enable_x64(True):
        params, x = numbers(layer, (5, 4, 4))
        assert_same(layer, equation, params, x)


def test_training_keeps_experts_busy_and_drops_what_has_no_room():
    x = jax.random.normal(jax.random.key(0), (6, 4, 3))
    experts = {"num_experts": 4, "top_k": 1, "capacity_factor": 0.5}
    layer = KanConvNorm(2, kind="kaln", experts=experts, **ALONE)
    variables = nn.unbox(jax.jit(layer.init)(jax.random.key(1), x))
    # All start alike, and all examples choose the first, which has room for one.
    for leaf in jax.tree.leaves(variables["params"]["routed"]["experts"]):
        assert (leaf == leaf[:1]).all()
    assert jnp.any(jax.jit(layer.apply)(variables, x), axis=(1, 2)).tolist() == [True] + [False] * 5

    def balance(params, noisy=True):
        own = layer.clone(experts={**experts, "noisy": noisy})
        rngs = {"dropout": jax.random.key(2)}
        _, sown = own.apply({"params": params}, x, True, rngs=rngs, mutable=["losses"])
        return sown["losses"]["routed"]["load_balance"][0]

    def told(params):
        calm = balance(params, noisy=False)
        return calm, *jax.value_and_grad(balance)(params)

    run = jax.jit(told, compiler_options=COMPILER_OPTIONS)
    calm, value, gradient = run(variables["params"])
    # Gates of 6, 0, 0 and 0: a variance of 9 over a squared mean of 2.25.
    np.testing.assert_allclose(calm, 0.04, rtol=1e-4)
    assert 0 < value < 0.04
    for name in ("router", "router_noise"):
        assert np.any(gradient["routed"][name]["kernel"])


def test_fields_that_do_not_fit_are_refused():
    x = jnp.zeros((1, 3, 3, 2))
    for fields, message in (
        ({"experts": {}}, "expected one of instance"),
        ({"experts": {"top_k": 9}, "norm_layer": "instance"}, "expected 1 to num_experts=8"),
        ({"kind": "wavkan", "by_function": True}, "is of a basis of every channel"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(KanConvNorm(2, **fields).init, jax.random.key(0), x)


@pytest.mark.parametrize("kind", ["kan", "wavkan"])
def test_lines_and_planes_are_maps(kind):
    """A kernel of one tap along an axis sees nothing of it, whatever the axes are called."""
    layer = KanConvNorm(2, (3, 1), kind=kind, reduction=2, norm_layer="instance")
    x = jax.random.normal(jax.random.key(0), (2, 5, 1, 2))

    def run(key):
        variables = nn.unbox(layer.init(key, x))

        def of(size, change, x):
            own = jax.tree.map(lambda leaf: change(leaf) if leaf.ndim > 3 else leaf, variables)
            return layer.clone(kernel_size=size).apply(own, x)

        return (
            layer.apply(variables, x),
            of(3, lambda leaf: leaf[:, 0], x[:, :, 0])[:, :, None],
            of((1, 3, 1), lambda leaf: leaf[None], x[:, None])[:, 0],
            of((3, 1, 1), lambda leaf: leaf[:, None], x[:, :, None])[:, :, 0],
        )

    y, *others = jax.jit(run, compiler_options=COMPILER_OPTIONS)(jax.random.key(1))
    for other in others:
        np.testing.assert_allclose(other, y, atol=1e-5)

"""KAN layers that choose their functions: the weighed sum, and what is left after the choice."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from scanmax.errors import UserError
from scanmax.models.parts.kan import KanConv, KanDense
from scanmax.models.parts.selectable_kan import (
    NODES,
    POOL,
    ChosenKan,
    SelectableKanConv,
    SelectableKanDense,
    prune_selection,
)
from scanmax.testing.model_suite import COMPILER_OPTIONS

run = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
EXACT = {"dtype": jnp.float64, "param_dtype": jnp.float64}
OPTIONS = {"bspline": {"grid_size": 2}, "radial": {"grid_size": 3}, "mexican_hat": {"grid_size": 2}}
X = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
DIM, FEATURES = 3, 4


@pytest.fixture(autouse=True)
def exact():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


def drawn(layer, x=X):
    """Variables of normal numbers, knots apart, by the shapes of the layer's own."""
    rng = np.random.default_rng(1)
    variables = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), variables["params"]
    )
    stats = jax.tree.map(
        lambda leaf: jnp.tile(jnp.linspace(-4.0, 4.0, leaf.shape[1])[None], (leaf.shape[0], 1)),
        variables.get("batch_stats", {}),
    )
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def alone(layer, name, variables):
    """The layer of one kind, with its coefficients before they are weighed, and without a base."""
    kind = KanDense if isinstance(layer, SelectableKanDense) else KanConv
    fields = {"learn_scale": False} if kind is KanDense else {"stride": layer.stride}
    own = kind(FEATURES, basis=name, basis_options=OPTIONS.get(name), base=None, **fields, **EXACT)
    parts = {"params": {"coefficients": variables["params"][f"coefficients_{name}"]}}
    for part in ("params", "batch_stats"):
        if f"basis_{name}" in variables.get(part, {}):
            parts.setdefault(part, {})["basis"] = variables[part][f"basis_{name}"]
    return own, parts


def layer_of(kind, **fields):
    fields = {"bases": (*POOL, "gram"), "basis_options": OPTIONS, **EXACT, **fields}
    if kind == "dense":
        return SelectableKanDense(FEATURES, **fields)
    return SelectableKanConv(FEATURES, stride=2, **fields)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_layer_is_the_weighed_sum_of_layers_of_one_kind(kind):
    """phi_o = sum_m w_om phi_mo, and the base beside it."""
    layer = layer_of(kind, nodes="outputs", temperature=0.5)
    variables = drawn(layer)

    @run
    def outputs(variables):
        parts = []
        for name in layer.bases:
            own, given = alone(layer, name, variables)
            parts.append(own.apply(given, X))
        params = {k: v for k, v in variables["params"].items() if k != "base"}
        bare = layer.clone(base=None).apply({**variables, "params": params}, X)
        return layer.apply(variables, X), bare, parts

    whole, bare, parts = outputs(variables)
    weights = special.softmax(np.asarray(variables["params"]["scores"])[0] / 0.5, -1)
    expected = sum(np.asarray(part) * weights[:, m] for m, part in enumerate(parts))
    np.testing.assert_allclose(bare, expected, rtol=1e-11, atol=1e-11)
    if kind == "dense":
        bent = X * special.expit(X) @ np.asarray(variables["params"]["base"])
        np.testing.assert_allclose(whole, expected + bent, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "nodes"), [*(("dense", nodes) for nodes in NODES), ("conv", "inputs")]
)
def test_pruning_leaves_what_a_hard_choice_gives(kind, nodes):
    layer = layer_of(kind, nodes=nodes, selection="hard")
    variables = drawn(layer)
    shape = variables["params"]["scores"].shape
    choices = np.resize([0, 3, 4, 1, 1], shape[:2])  # of the kinds, the third for nobody
    variables["params"]["scores"] += 9 * jax.nn.one_hot(choices, 5, dtype=jnp.float64)
    small, left = prune_selection(layer, variables)
    expected, actual = run(lambda own, left: (layer.apply(own, X), small.apply(left, X)))(
        variables, left
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    shapes = nn.unbox(jax.eval_shape(small.init, jax.random.key(0), X))
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    if nodes != "layer":
        assert isinstance(small, ChosenKan)
        assert {own.layer.basis for own in small.kinds} == {layer.bases[m] for m in choices.flat}
    if nodes == "edges":
        # What is no edge of a kind is not learned again.
        gradient = run(
            jax.grad(lambda params: jnp.sum(small.apply({**left, "params": params}, X) ** 2))
        )(left["params"])
        for own in small.kinds:
            if own.layer.edges is not None:
                edges = np.array(own.layer.edges)
                found = np.asarray(gradient[own.layer.basis]["coefficients"]).swapaxes(-2, -1)
                assert found[edges].any()
                assert not found[~edges].any()
        assert any(own.layer.edges is not None for own in small.kinds)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_one_choice_of_all_is_the_layer_of_that_kind(kind):
    layer = layer_of(kind, selection="hard", base=None)
    cases, layers = {}, {}
    for place, name in enumerate(layer.bases):
        variables = drawn(layer)
        variables["params"]["scores"] = variables["params"]["scores"].at[..., place].add(9.0)
        small, left = prune_selection(layer, variables)
        single, parts = alone(layer, name, variables)
        assert type(small) is type(single)
        assert (small.basis, small.edges) == (name, None)
        cases[name], layers[name] = (variables, left, parts), (layer, small, single)

    @run
    def outputs(cases):
        return {
            name: [own.apply(given, X) for own, given in zip(layers[name], cases[name])]
            for name in cases
        }

    for whole, small, single in outputs(cases).values():
        np.testing.assert_allclose(small, single, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole, single, rtol=1e-12, atol=1e-12)


def test_other_selections_keep_the_part_of_the_largest_weight():
    layer = layer_of("dense", nodes="layer", selection="free", base=None)
    variables = drawn(layer)
    scores = jnp.asarray([0.5, -2.0, 1.0, 0.1, 0.2]).reshape(1, 1, 5)
    variables["params"]["scores"] = scores
    small, left = prune_selection(layer, variables)
    single, parts = alone(layer, "radial", variables)
    actual, expected = run(lambda a, b: (small.apply(a, X), single.apply(b, X)))(left, parts)
    np.testing.assert_allclose(actual, -2 * expected, rtol=1e-12)
    gated = layer.clone(selection="gated", threshold=0.9)
    small, _ = prune_selection(gated, variables)
    assert small.basis == "chebyshev"


def test_every_phase_has_the_same_parameters_and_learns_in_them():
    layer = layer_of("dense")
    free = layer.clone(selection="free")
    (y, variables), (same, _) = run(
        lambda key: [own.init_with_output(key, X) for own in (layer, free)]
    )(jax.random.key(0))
    assert not np.any(nn.unbox(variables)["params"]["scores"])
    np.testing.assert_allclose(same, y, rtol=1e-12)
    variables = drawn(layer)

    @run
    def gradients(params):
        def loss(params, selection):
            own = layer.clone(selection=selection)
            return jnp.sum(own.apply({**variables, "params": params}, X) ** 2)

        return {name: jax.grad(loss)(params, name) for name in ("softmax", "gated", "hard", "free")}

    for name, found in gradients(variables["params"]).items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            assert np.isfinite(leaf).all(), (name, path)
            assert np.any(leaf) or name in ("gated", "hard"), (name, path)
        assert np.any(found["scores"]), name


def test_what_does_not_fit_is_refused():
    x = jnp.zeros((1, 2))
    for fields, message in (
        ({"nodes": "input"}, "did you mean 'inputs'"),
        ({"bases": ("radial", "radial")}, "once each"),
        ({"bases": ("radial", "shannon")}, "not 'shannon'"),
        ({"basis_options": {"gram": {}}}, "basis_options of 'gram'"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(SelectableKanDense(2, **fields).init, jax.random.key(0), x)
    with pytest.raises(UserError, match=r"edges has shape \(1, 1\)"):
        jax.eval_shape(KanDense(2, edges=((True,),)).init, jax.random.key(0), x)

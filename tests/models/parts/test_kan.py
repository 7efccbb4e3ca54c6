"""KAN layers as modules: their counts, grids that move, and rational MLPs that keep variance."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import gelu
from scanmax.models.parts.kan import (
    BASES,
    RATIONALS,
    KanConv,
    KanDense,
    Rational,
    RationalMlp,
    rational_gain,
    refit_kan,
)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_learns_in_all_its_parameters(basis):
    layer = KanDense(2, basis=basis, basis_options={"grid_size": 3, "degree": 4})
    x = jax.random.normal(jax.random.key(0), (8, 3))

    @jax.jit
    def run(key):
        variables = nn.unbox(layer.init(key, x))

        def loss(params):
            return jnp.sum(layer.apply({**variables, "params": params}, x) ** 2)

        return variables, jax.grad(loss)(variables["params"])

    variables, gradients = run(jax.random.key(1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path
    shapes = jax.eval_shape(layer.clone(dtype=jnp.bfloat16).apply, variables, x)
    assert shapes.dtype == jnp.bfloat16


def test_counts_are_the_papers():
    x = jnp.zeros((1, 3))
    variables = nn.unbox(jax.eval_shape(KanDense(4).init, jax.random.key(0), x))
    assert count(variables) == 3 * 4 * (5 + 3 + 2)
    maps = jnp.zeros((1, 4, 4, 2))
    # (degree + 2) times a plain convolution, and the weights of Gram's recurrence.
    variables = nn.unbox(jax.eval_shape(KanConv(4).init, jax.random.key(0), maps))
    assert count(variables) == 3 * 3 * 2 * 4 * 5 + 4
    mlp = nn.unbox(jax.eval_shape(RationalMlp(16).init, jax.random.key(0), jnp.zeros((1, 8))))
    assert count(mlp) == 8 * 16 + 16 + 16 * 8 + 8 + 76


def test_an_unknown_basis_is_refused():
    with pytest.raises(UserError, match="did you mean 'legendre'"):
        KanDense(1, basis="legender").init(jax.random.key(0), jnp.zeros((1, 1)))
    with pytest.raises(UserError, match="has no knots"):
        refit_kan(KanDense(1, basis="radial"), {}, jnp.zeros((9, 1)))
    with pytest.raises(UserError, match="did you mean 'gelu'"):
        Rational("gleu").init(jax.random.key(0), jnp.zeros((1, 8)))


def test_a_convolution_of_one_tap_is_the_dense_layer():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 2))
    conv = KanConv(4, kernel_size=1, basis="bspline")
    dense = KanDense(4, learn_scale=False)

    @jax.jit
    def run(key):
        variables = nn.unbox(conv.init(key, x))
        params = jax.tree.map(lambda leaf: leaf[0, 0], variables["params"])
        same = {"params": params, "batch_stats": variables["batch_stats"]}
        return conv.apply(variables, x), dense.apply(same, x)

    chex.assert_trees_all_close(*run(jax.random.key(1)), atol=1e-5)


def test_knots_move_and_the_function_stays():
    with jax.enable_x64(True):
        layer = KanDense(2, dtype=jnp.float64, param_dtype=jnp.float64)
        # Over all of the grid, its ends included.
        x = jnp.linspace(-1, 1, 120)[:, None]
        variables = layer.init(jax.random.key(0), x)
        y = layer.apply(nn.unbox(variables), x)
        finer, carried = refit_kan(layer, variables, x, grid_size=10)
        assert carried["params"]["coefficients"].shape == (1, 13, 2)
        chex.assert_trees_all_close(finer.apply(carried, x), y, atol=1e-6)
        # Samples in a part of the range draw the knots there; the curve is smooth, so it is near.
        dense = x[40:80]
        same, moved = refit_kan(layer, variables, dense)
        knots = moved["batch_stats"]["basis"]["knots"]
        assert float(knots.max()) < 1
        assert knots.shape == (1, 12)
        chex.assert_trees_all_close(
            same.apply(moved, dense), layer.apply(nn.unbox(variables), dense), atol=2e-2
        )


@pytest.mark.parametrize("start", sorted(RATIONALS))
def test_a_rational_begins_as_its_name(start):
    x = jnp.linspace(-3, 3, 64)[None]
    y, _ = jax.jit(Rational(start).init_with_output)(jax.random.key(0), x)
    expected = {"identity": lambda x: x, "gelu": gelu, "silu": nn.silu}[start](x)
    chex.assert_trees_all_close(y, expected, atol=0.02)


def test_variance_stays_through_three_rational_mlps():
    assert abs(rational_gain("gelu") - 2.3568) < 0.02
    x = jax.random.normal(jax.random.key(0), (256, 256))
    for layer in range(3):
        x, _ = jax.jit(RationalMlp(512).init_with_output)(jax.random.key(layer), x)
    assert 0.7 < float(jnp.var(x)) < 1.4


def test_a_layer_of_splines_is_scipys_sum_over_edges():
    from scipy.interpolate import BSpline

    layer = KanDense(2)
    x = jax.random.uniform(jax.random.key(0), (5, 3), minval=-0.9, maxval=0.9)
    variables = nn.unbox(jax.jit(layer.init)(jax.random.key(1), x))
    params = jax.tree.map(np.asarray, variables["params"])
    knots = np.asarray(variables["batch_stats"]["basis"]["knots"])
    expected = np.zeros((5, 2))
    for d in range(3):
        for o in range(2):
            curve = BSpline(knots[d], params["coefficients"][d, :, o], 3)(np.asarray(x[:, d]))
            bent = np.asarray(nn.silu(x[:, d]))
            expected[:, o] += params["base"][d, o] * bent + params["scale"][d, o] * curve
    chex.assert_trees_all_close(layer.apply(variables, x), expected, atol=1e-5)
    assert ops.bspline_basis(x, jnp.asarray(knots)).shape == (5, 3, 8)

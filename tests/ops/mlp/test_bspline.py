"""B-splines: scipy's, their derivatives, and edges that keep their function on another grid."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def uneven(rng, channels, count):
    """Ascending knots at distances from 0.5 to 1.5."""
    return np.cumsum(rng.uniform(0.5, 1.5, size=(channels, count)), 1)


class BsplineBasisTest(OpSuite):
    op = ops.bspline_basis
    reference = reference.bspline_basis
    cases = (
        OpCase(batch=(3,), width=2, knots=6, options={"degree": 2}, full=True),
        OpCase(width=3, knots=6),
        OpCase(batch=(2, 3), width=1, knots=2, options={"degree": 0}),
        OpCase(batch=(4,), width=2, knots=8, repeated=True),
    )
    errors = (
        ({"knots": lambda t: t[:1]}, ValueError, r"knots has shape .* expected \[2, M\]"),
        ({"degree": 6}, ValueError, "M at least 8"),
        ({"degree": -1}, ValueError, "degree=-1"),
        ({"x": jnp.ones(())}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        knots = uneven(rng, case.width, case.knots)
        if getattr(case, "repeated", False):
            # Clamped at either end, as splines that end in their last coefficient are.
            knots[:, :4], knots[:, -4:] = knots[:, 3:4], knots[:, -4:-3]
        inside = rng.uniform(knots[:, 0] - 0.5, knots[:, -1] + 0.5, (*case.batch, case.width))
        return {"x": inside, "knots": knots}


class ExtendKnotsTest(OpSuite):
    op = ops.extend_knots
    reference = reference.extend_knots
    cases = (OpCase(options={"degree": 2}, full=True), OpCase(options={"degree": 0}))
    errors = (
        ({"points": lambda g: g[:, :1]}, ValueError, "points has shape"),
        ({"degree": -1}, ValueError, "degree=-1"),
    )

    def make_args(self, rng, case):
        return {"points": uneven(rng, 2, 4)}


class SampleKnotsTest(OpSuite):
    op = ops.sample_knots
    reference = reference.sample_knots
    cases = (
        OpCase(options={"grid_size": 3, "degree": 1, "uniform": 0.25}, full=True),
        OpCase(),
        OpCase(options={"grid_size": 1, "degree": 0, "uniform": 1.0}),
    )
    errors = (
        ({"grid_size": 0}, ValueError, "grid_size=0"),
        ({"grid_size": 12}, ValueError, r"x has shape \(11, 2\); .* at least 12"),
        ({"uniform": 1.5}, ValueError, "uniform=1.5"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(11, 2))}


class FitBsplineTest(OpSuite):
    op = ops.fit_bspline
    reference = reference.fit_bspline
    cases = (
        OpCase(options={"degree": 2, "ridge": 1.0}, full=True),
        OpCase(options={"degree": 1, "ridge": 0.0}),
    )
    errors = (
        ({"ridge": -1.0}, ValueError, "ridge=-1.0"),
        ({"y": lambda y: y[:, 0]}, ValueError, r"y has shape .* expected \[S, D, O\]"),
        ({"x": lambda x: x[:, 0]}, ValueError, "x has shape"),
        ({"knots": lambda t: t[:1]}, ValueError, "knots has shape"),
    )

    def make_args(self, rng, case):
        knots = np.linspace(-3.0, 3.0, 6) + np.array([[0.0], [0.1]])
        x = np.linspace(-1.9, 1.9, 12)[:, None] + rng.uniform(-0.1, 0.1, size=(12, 2))
        return {"x": x, "y": rng.normal(size=(12, 2, 2)), "knots": knots}


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_it_is_scipys_with_its_derivative(degree):
    rng = np.random.default_rng(degree)
    knots = uneven(rng, 1, 6 + 2 * degree)
    x = np.linspace(knots[0, degree], knots[0, -degree - 1], 23)[:-1]
    with jax.enable_x64(True):
        points = jnp.asarray(x)[:, None]

        def values(points):
            return ops.bspline_basis(points, knots, degree=degree)[:, 0]

        basis, slope = jax.jvp(values, (points,), (jnp.ones_like(points),))
        splines = [BSpline(knots[0], row, degree) for row in np.eye(basis.shape[1])]
        chex.assert_trees_all_close(basis, np.stack([s(x) for s in splines], 1), atol=1e-13)
        slopes = np.stack([s.derivative()(x) for s in splines], 1)
        chex.assert_trees_all_close(slope, slopes, atol=1e-12)
        chex.assert_trees_all_close(basis.sum(1), np.ones(len(x)), atol=1e-13)


def test_a_finer_grid_keeps_the_function():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        coarse = ops.extend_knots(jnp.linspace(-1.0, 1.0, 4)[None])
        fine = ops.extend_knots(jnp.linspace(-1.0, 1.0, 13)[None])
        coefficients = jnp.asarray(rng.normal(size=(1, 6, 2)))
        x = jnp.linspace(-1, 1, 101)[:-1, None]

        def curves(knots, coefficients):
            return jnp.einsum("sdn,dno->sdo", ops.bspline_basis(x, knots), coefficients)

        y = curves(coarse, coefficients)
        refitted = ops.fit_bspline(x, y, fine, ridge=0.0)
        assert refitted.shape == (1, 15, 2)
        chex.assert_trees_all_close(curves(fine, refitted), y, atol=1e-11)


def test_a_spline_without_samples_is_zero():
    x = jnp.linspace(-0.9, -0.1, 9)[:, None]
    knots = ops.extend_knots(jnp.linspace(-1.0, 1.0, 5)[None], degree=1)
    fitted = ops.fit_bspline(x, x[..., None], knots, degree=1)
    chex.assert_tree_all_finite(fitted)
    chex.assert_trees_all_close(fitted[0, 3:], jnp.zeros((2, 1)), atol=1e-6)

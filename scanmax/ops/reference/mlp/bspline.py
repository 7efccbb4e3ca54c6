"""B-splines by the recursion of Cox and de Boor, one function at a time."""

import itertools

import jax.numpy as jnp


def _ratio(numerator, denominator):
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def bspline_basis(x, knots, *, degree=3):
    """B_m^k by its recursion over k, for all m."""
    t = [jnp.broadcast_to(column, x.shape) for column in knots.T]
    within = [(a <= x) & (x < b) for a, b in itertools.pairwise(t)]
    basis = [jnp.where(inside, jnp.ones_like(x), jnp.zeros_like(x)) for inside in within]
    for k in range(1, degree + 1):
        basis = [
            _ratio(x - t[m], t[m + k] - t[m]) * basis[m]
            + _ratio(t[m + k + 1] - x, t[m + k + 1] - t[m + 1]) * basis[m + 1]
            for m in range(len(basis) - 1)
        ]
    return jnp.stack(basis, -1)


def extend_knots(points, *, degree=3):
    """k points at the mean distance on either side."""
    h = (points[:, -1:] - points[:, :1]) / (points.shape[1] - 1)
    for _ in range(degree):
        points = jnp.concatenate([points[:, :1] - h, points, points[:, -1:] + h], 1)
    return points


def sample_knots(x, *, grid_size=5, degree=3, uniform=0.02):
    """Even and quantile grids, mixed point by point."""
    ranked = jnp.sort(x, 0)
    grid = []
    for i in range(grid_size + 1):
        even = ranked[0] + i / grid_size * (ranked[-1] - ranked[0])
        quantile = ranked[-1] if i == grid_size else ranked[int(len(x) / grid_size * i)]
        grid.append(uniform * even + (1 - uniform) * quantile)
    return extend_knots(jnp.stack(grid, 1), degree=degree)


def fit_bspline(x, y, knots, *, degree=3, ridge=1e-8):
    """c = (B^T B + ridge I)^-1 B^T y, channel by channel."""
    basis = bspline_basis(x, knots, degree=degree)
    solutions = []
    for d in range(x.shape[1]):
        b = basis[:, d]
        square = b.T @ b + ridge * jnp.eye(b.shape[1], dtype=b.dtype)
        solutions.append(jnp.linalg.solve(square, b.T @ y[:, d]))
    return jnp.stack(solutions)

"""B-splines of any degree on any knots: their basis, their knots from samples, their fit."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require


def _check_knots(channels: int, knots: Array, degree: int) -> int:
    """How many basis functions there are."""
    require(degree >= 0, f"degree={degree}; expected at least 0.")
    require(
        knots.ndim == 2 and knots.shape[0] == channels and knots.shape[1] >= degree + 2,
        f"knots has shape {knots.shape}; expected [{channels}, M], M at least {degree + 2} with "
        f"degree={degree}.",
    )
    return knots.shape[1] - degree - 1


def _inverse(distance: Array) -> Array:
    """1 / distance, 0 where that is 0, also in its derivatives.

    Of the knots alone: a quotient for each point takes several times as long as the product.
    """
    meet = distance == 0
    inverse = 1 / jnp.where(meet, jnp.ones_like(distance), distance)
    return jnp.where(meet, jnp.zeros_like(inverse), inverse)


def _recursion(points: Array, t: Array, degree: int) -> Array:
    """[N, *B, D] of points [1, *B, D] and knots [M, .., D]."""
    basis = jnp.logical_and(points >= t[:-1], points < t[1:]).astype(points.dtype)
    for k in range(1, degree + 1):
        # as many distances as there are functions of one degree less
        inverse = _inverse(t[k:] - t[:-k])
        rising = (points - t[: -k - 1]) * inverse[:-1]
        falling = (t[k + 1 :] - points) * inverse[1:]
        basis = rising * basis[:-1] + falling * basis[1:]
    return basis


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _splines(points: Array, t: Array, degree: int) -> Array:
    return _recursion(points, t, degree)


@functools.partial(_splines.defjvp, symbolic_zeros=True)
def _tangents(degree, primals, tangents):
    """The slope of a spline is a difference of two of one degree less, not a second recursion."""
    (points, t), (moved, shifted) = primals, tangents
    basis, parts = _splines(points, t, degree), []
    if degree > 0 and not isinstance(moved, SymbolicZero):
        lower = _splines(points, t, degree - 1)
        share = jnp.unstack(lower * (degree * _inverse(t[degree:] - t[:-degree])))
        # One by one: the transpose of a product with all of them is a sum over an axis, into which
        # XLA's CPU code fuses the recursion anew for each of its terms, at eight times the cost.
        slopes = [one - other for one, other in itertools.pairwise(share)]
        parts.append(jnp.stack([slope * moved[0] for slope in slopes]))
    if not isinstance(shifted, SymbolicZero):
        parts.append(jax.jvp(lambda t: _recursion(points, t, degree), (t,), (shifted,))[1])
    return basis, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(basis)


@op("degree")
def bspline_basis(
    x: Float[Array, "*B D"], knots: Float[Array, "D M"], *, degree: int = 3
) -> Float[Array, "*B D N"]:
    """The N = M - k - 1 B-splines of degree k over the knots t of each channel, at x.

        B_m^0(x) = 1 where t_m <= x < t_{m+1}, else 0
        B_m^k(x) = (x - t_m) / (t_{m+k} - t_m) B_m^{k-1}(x)
                 + (t_{m+k+1} - x) / (t_{m+k+1} - t_{m+1}) B_{m+1}^{k-1}(x)

    A quotient of which both parts are 0, where knots meet, is 0. From t_k to t_{N} the N functions
    sum to 1; outside of all knots they are 0.

    Args:
      x: the points.
      knots: t, ascending.
      degree: k, of the pieces, scipy's `k`; the paper calls it the order.

    Returns:
      [*B, D, N] in the dtype of x.

    Raises:
      ValueError: when knots is not [D, M] with at least k + 2 of them, or degree is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.bspline_basis(jnp.array([0.25]), jnp.array([[-1.0, 0.0, 1.0, 2.0]]), degree=1)
      Array([[0.75, 0.25]], dtype=float32)

    Reference: kan
    """
    check_rank(1, x=x)
    _check_knots(x.shape[-1], knots, degree)
    dtype = accumulator_dtype(x, knots)
    # Basis functions come first, so that a step is one loop over all channels side by side.
    points = x.astype(dtype)[None]
    t = knots.astype(dtype).T
    t = t.reshape(t.shape[0], *(1,) * (x.ndim - 1), t.shape[1])
    # Moved as one array the recursion is fused into the copy and runs across it: five times slower.
    return jnp.stack(jnp.unstack(_splines(points, t, degree)), -1).astype(x.dtype)


@op("degree")
def extend_knots(points: Float[Array, "D G"], *, degree: int = 3) -> Float[Array, "D M"]:
    """Knots for the intervals of a grid: k more on either side, at its mean distance h.

        t = g_0 - k h, .., g_0 - h, g_0, .., g_n, g_n + h, .., g_n + k h,    h = (g_n - g_0) / n

    Args:
      points: g, the n + 1 ends of n intervals, ascending.
      degree: k, of the splines.

    Returns:
      [D, n + 1 + 2 k]; there are n + k splines over them.

    Raises:
      ValueError: when points is not [D, G] with at least two of them, or degree is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.extend_knots(jnp.array([[0.0, 1.0, 4.0]]), degree=1)
      Array([[-2.,  0.,  1.,  4.,  6.]], dtype=float32)

    Reference: kan
    """
    require(degree >= 0, f"degree={degree}; expected at least 0.")
    require(
        points.ndim == 2 and points.shape[1] >= 2,
        f"points has shape {points.shape}; expected [D, G], G at least 2.",
    )
    dtype = accumulator_dtype(points)
    y = points.astype(dtype)
    first, last = y[:, :1], y[:, -1:]
    steps = (last - first) / (points.shape[1] - 1) * jnp.arange(1, degree + 1, dtype=dtype)[None]
    return jnp.concatenate([(first - steps)[:, ::-1], y, last + steps], 1).astype(points.dtype)


@op("grid_size", "degree", "uniform")
def sample_knots(
    x: Float[Array, "S D"], *, grid_size: int = 5, degree: int = 3, uniform: float = 0.02
) -> Float[Array, "D M"]:
    """Knots where the samples of a channel lie: between an even grid and one of their quantiles.

        g_i = u (x_(0) + i (x_(S-1) - x_(0)) / G) + (1 - u) x_(floor(i S / G)),    i = 0 .. G

    where x_(j) is the sample of rank j, the last one for i = G; t is `extend_knots(g)`.

    Args:
      x: S samples, at least G.
      grid_size: G, the intervals.
      degree: k, of the splines.
      uniform: u, the share of the even grid, from 0 to 1.

    Returns:
      [D, G + 1 + 2 k] in the dtype of x.

    Raises:
      ValueError: x with another rank or less than G rows, a grid of no interval, u out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.sample_knots(jnp.array([[4.0], [0.0], [1.0]]), grid_size=2, degree=0, uniform=0.5)
      Array([[0. , 1.5, 4. ]], dtype=float32)

    Reference: kan
    """
    require(grid_size >= 1, f"grid_size={grid_size}; expected at least 1.")
    require(0 <= uniform <= 1, f"uniform={uniform}; expected a number from 0 to 1.")
    require(
        x.ndim == 2 and x.shape[0] >= max(grid_size, 2),
        f"x has shape {x.shape}; expected [S, D], S at least {max(grid_size, 2)}.",
    )
    ranked = jnp.sort(x.astype(accumulator_dtype(x)), 0)
    ranks = jnp.asarray([int(len(x) / grid_size * i) for i in range(grid_size)] + [len(x) - 1])
    shares = jnp.arange(grid_size + 1, dtype=ranked.dtype)[:, None] / grid_size
    even = ranked[:1] + shares * (ranked[-1:] - ranked[:1])
    grid = uniform * even + (1 - uniform) * ranked[ranks]
    return extend_knots(grid.T, degree=degree).astype(x.dtype)


@op("degree", "ridge")
def fit_bspline(
    x: Float[Array, "S D"],
    y: Float[Array, "S D O"],
    knots: Float[Array, "D M"],
    *,
    degree: int = 3,
    ridge: float = 1e-8,
) -> Float[Array, "D N O"]:
    """Coefficients of the splines over `knots` that are nearest to y at the samples.

        c_d = argmin_c  sum_s |y_sd - sum_n c_n B_n(x_sd)|^2 + ridge |c|^2

    With the curves of another grid as y it is what carries an edge to finer or moved knots: where
    the new knots contain the old ones, and every spline has samples, the function stays.

    Args:
      x: where the curves are known.
      y: O curves of every channel.
      knots: t, ascending.
      degree: k, of the splines.
      ridge: makes a spline without samples 0; without it each needs samples of its own.

    Returns:
      [D, N, O], N = M - k - 1, in the dtype of y.

    Raises:
      ValueError: arrays whose shapes do not fit, a negative ridge or degree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, knots = jnp.array([[0.5], [1.5]]), jnp.array([[0.0, 1.0, 2.0]])
      >>> ops.fit_bspline(x, 2 * x[..., None], knots, degree=0)
      Array([[[1.],
              [3.]]], dtype=float32)

    Reference: kan
    """
    require(ridge >= 0, f"ridge={ridge}; expected at least 0.")
    require(x.ndim == 2, f"x has shape {x.shape}; expected [S, D].")
    require(
        y.ndim == 3 and y.shape[:2] == x.shape,
        f"y has shape {y.shape}; expected [S, D, O] with x of shape {x.shape}.",
    )
    count = _check_knots(x.shape[1], knots, degree)
    dtype = accumulator_dtype(x, y, knots)
    basis = bspline_basis(x.astype(dtype), knots, degree=degree)
    penalty = jnp.sqrt(jnp.asarray(ridge, dtype)) * jnp.eye(count, dtype=dtype)
    penalty = jnp.broadcast_to(penalty[None], (x.shape[1], count, count))
    rows = jnp.concatenate([jnp.moveaxis(basis, 1, 0), penalty], 1)
    targets = jnp.moveaxis(y.astype(dtype), 1, 0)
    targets = jnp.pad(targets, ((0, 0), (0, count), (0, 0)))
    # By an orthogonal basis: the normal equations would square the condition of the splines.
    q, r = jnp.linalg.qr(rows)
    projected = jnp.einsum("dsn,dso->dno", q, targets)
    solution = jax.lax.linalg.triangular_solve(r, projected, left_side=True)
    return solution.astype(y.dtype)

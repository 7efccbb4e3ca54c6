"""Clustering of tokens by their features: superpixels and the way back, and clusters of points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_grid,
    check_rank,
    check_shape,
    op,
    require,
    vary_like,
)
from scanmax.ops.selection import kth_largest
from scanmax.ops.tokens.assignment import unit
from scanmax.ops.tokens.pooling import adaptive_avg_pool2d


class _Axis:
    """One axis of a map of tokens, cut into blocks of cells with the centres that they may see.

    Token i lies in cell i size // length. A block is a run of cells; its tokens see the `seen`
    centres from `first` on, which hold all within reach of its cells. Masks hide the others.
    """

    def __init__(self, length: int, size: int, reach: int):
        step = reach + 1
        if step + 2 * reach >= size:
            step = size  # one block: every token beside every centre
        self.seen = min(size, step + 2 * reach)
        blocks = -(-size // step)
        self.first = np.clip(np.arange(blocks) * step - reach, 0, size - self.seen)
        cell = np.arange(length) * size // length
        members = [np.flatnonzero(cell // step == block) for block in range(blocks)]
        longest = max(len(tokens) for tokens in members)
        # Short blocks repeat their tokens, which do not count.
        self.tokens = np.array([np.resize(tokens, longest) for tokens in members])
        self.real = np.array([np.arange(longest) < len(tokens) for tokens in members])
        self.centers = self.first[:, None] + np.arange(self.seen)
        self.near = np.abs(cell[self.tokens][..., None] - self.centers[:, None]) <= reach


_axis = functools.cache(_Axis)


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """x with the axis indexed by a table [blocks, n]: two axes in its place."""
    axis %= x.ndim
    if index.size != x.shape[axis] or (index.ravel() != np.arange(index.size)).any():
        x = jnp.take(x, index.ravel(), axis=axis)
    return x.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _blocks(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Maps [*B, Y, X, D] as [*B, blocks of rows, blocks of columns, n, D]."""
    x = _take(_take(x, rows, -3), columns, -2)  # [*B, r, p, c, q, D]
    return lax.collapse(jnp.moveaxis(x, -3, -4), -3, -1)


def _over_axes(rows: np.ndarray, columns: np.ndarray) -> Array:
    """[r, p, ...] and [c, q, ...] of bool, both needed: [r, c, p q, ...]."""
    few = rows.ndim - 2
    rows, columns = jnp.asarray(rows), jnp.asarray(columns)
    if few:
        both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    else:
        both = rows[:, None, :, None] & columns[None, :, None, :]
    r, c, p, q = both.shape[:4]
    return both.reshape(r, c, p * q, *((-1,) if few else ()))


def _assign(tokens, centers, axes, scale, precision):
    """[*B, r, c, n, m]: softmax over the near centres of -scale distance^2; copies weigh nothing.

    |x|^2 is the same for all centres, so that 2 x . c - |c|^2 does.
    """
    rows, columns = axes
    seen = _blocks(centers, rows.centers, columns.centers)
    products = jnp.einsum("...nd,...md->...nm", tokens, seen, precision=precision)
    logits = scale * (2 * products - jnp.sum(jnp.square(seen), axis=-1)[..., None, :])
    near = jnp.broadcast_to(_over_axes(rows.near, columns.near), logits.shape)
    real = _over_axes(rows.real, columns.real)[..., None]
    weights = jax.nn.softmax(jnp.where(near, logits, -jnp.inf), axis=-1)
    return jnp.where(jnp.broadcast_to(real, weights.shape), weights, jnp.zeros_like(weights))


def _means(tokens, weights, axes, size, precision):
    """The centres [*B, y, x, D]: means of the tokens, weighted."""
    rows, columns = (axis.centers for axis in axes)
    place = rows[:, None, :, None] * size[1] + columns[None, :, None, :]

    def over_blocks(x):
        """[*B, r, c, m, C] as [*B, y, x, C]: sums of what the blocks give to each centre."""
        shape = (*x.shape[:-4], size[0] * size[1], x.shape[-1])
        if len(rows) * len(columns) > 1:
            parts = lax.collapse(x, -4, -1)
            x = vary_like(jnp.zeros(shape, x.dtype), x).at[..., place.ravel(), :].add(parts)
        return x.reshape(*shape[:-2], *size, shape[-1])

    total = jnp.einsum("...nm,...nd->...md", weights, tokens, precision=precision)
    mass = jnp.sum(weights, axis=-2)[..., None]
    return over_blocks(total) / jnp.maximum(over_blocks(mass), 1e-16)


@op("size", "iterations", "window", "precision")
def token_clustering(
    x: Float[Array, "*B Y X D"],
    size: tuple[int, int],
    *,
    scale: Float[Array, ""] | float = 0.05,
    iterations: int = 5,
    window: int = 7,
    precision=None,
) -> Float[Array, "*B y x D"]:
    """Groups the tokens of a map into fewer, softly and near their place, as superpixels are.

        A_pq = softmax_q(-scale |x_p - c_q|^2) over the centres q near p,   c_q = sum_p A_pq x_p /
        sum_p A_pq, starting from average pooling

    Near are the window x window centres around the cell in which p lies. The centres keep their two
    axes, so that what follows may be windowed attention. Gradients pass through the last weighted
    mean and not through the weights A, as in the released code. Cost per round is T window^2 D.

    Args:
      x: [*B, Y, X, D].
      size: (y, x), at most (Y, X).
      scale: of the squared distance, scalar, may be traced. What the released code calls
        temperature multiplies too, 0.05 by default (0.1 in its SAM).
      iterations: rounds of assignment and mean; 0 is average pooling.
      window: odd number of centres per axis.
      precision: of the matrix products.

    Returns:
      [*B, y, x, D] the centres, in the dtype of x.

    Raises:
      ValueError: a size, window or number of rounds that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([0.0, 0.0, 0.0, 9.0]).reshape(1, 4, 1)
      >>> ops.token_clustering(x, (1, 2), scale=1.0)[0, :, 0].round(3)
      Array([0., 9.], dtype=float32)

    Reference: expedit-dense-vit
    """
    check_grid("size", size)
    check_rank(3, x=x)
    grid = x.shape[-3:-1]
    require(
        len(size) == 2 and all(1 <= few <= many for few, many in zip(size, grid)),
        f"size={size}; expected between 1 and the sides of x, whose shape is {x.shape}.",
    )
    require(window >= 1 and window % 2 == 1, f"window={window}; expected an odd positive number.")
    require(iterations >= 0, f"iterations={iterations} is negative.")
    dtype = accumulator_dtype(x)
    maps, scale = x.astype(dtype), jnp.asarray(scale, dtype)
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    centers = adaptive_avg_pool2d(maps, size)
    if iterations:
        axes = tuple(_axis(*pair, window // 2) for pair in zip(grid, size))
        tokens = _blocks(maps, *(axis.tokens for axis in axes))
        fixed = lax.stop_gradient((tokens, scale))

        def weigh(centers):
            return _assign(fixed[0], centers, axes, fixed[1], precision)

        def body(centers, _):
            return _means(fixed[0], weigh(centers), axes, size, precision), None

        start = lax.stop_gradient(centers)
        if iterations > 1:
            start, _ = lax.scan(body, start, length=iterations - 1)
        centers = _means(tokens, weigh(start), axes, size, precision)
    return centers.astype(x.dtype)


@op("neighbours", "normalize", "precision")
def token_reconstruction(
    x: Float[Array, "*B T D"],
    centers: Float[Array, "*B M D"],
    values: Float[Array, "*B M V"],
    *,
    scale: Float[Array, ""] | float = 0.05,
    neighbours: int | None = 3,
    normalize: str = "l2",
    precision=None,
) -> Float[Array, "*B T V"]:
    """Gives clustered tokens back their number: each reads the centres that it resembled.

        y_t = sum_m w_tm v_m / |w_t|,   w_tm = exp(-scale |x_t - c_m|^2) for near centres, else 0

    x and the centres are features from before the layers that ran on the centres, the values come
    from after them. The paper's weights sum to one; the released code divides by their Euclidean
    norm, which makes tokens between several centres longer. With one centre per token both are the
    identity.

    Args:
      x: [*B, T, D] tokens before clustering.
      centers: [*B, M, D] their centres.
      values: [*B, M, V] what became of the centres.
      scale: of the squared distance, scalar, may be traced.
      neighbours: how many of the nearest centres count (ties count too); None is all.
      normalize: "l2" (released code) or "sum" (paper).
      precision: of the matrix products.

    Returns:
      [*B, T, V] in the dtype of values.

    Raises:
      ValueError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, centers = jnp.array([[0.0], [8.0], [9.0]]), jnp.array([[0.0], [9.0]])
      >>> ops.token_reconstruction(x, centers, -centers, scale=1.0, neighbours=1)[:, 0]
      Array([ 0., -9., -9.], dtype=float32)

    Reference: expedit-dense-vit
    """
    check_rank(2, x=x, centers=centers, values=values)
    *batch, M = centers.shape[:-1]
    check_shape("centers", centers, (*x.shape[:-2], M, x.shape[-1]), "[*B, M, D]")
    check_shape("values", values, (*batch, M, values.shape[-1]), "[*B, M, V]")
    check_choice("normalize", normalize, ("l2", "sum"))
    require(neighbours is None or neighbours >= 1, f"neighbours={neighbours}; expected at least 1.")
    dtype = accumulator_dtype(x, centers, values)
    tokens, centers, scale = x.astype(dtype), centers.astype(dtype), jnp.asarray(scale, dtype)
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    # Both norms cancel the factor exp(-scale |x|^2), and the largest weight.
    products = jnp.einsum("...td,...md->...tm", tokens, centers, precision=precision)
    logits = scale * (2 * products - jnp.sum(jnp.square(centers), axis=-1)[..., None, :])
    if neighbours is not None and neighbours < M:
        least = kth_largest(logits, neighbours)[..., None]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    if normalize == "sum":
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    else:
        weights = unit(weights)
    y = jnp.einsum("...tm,...mv->...tv", weights, values.astype(dtype), precision=precision)
    return y.astype(values.dtype)


@op("grid", "centers", "regions", "denominator", "prefix_tokens", "precision")
def context_cluster(
    features: Float[Array, "*B T H K"],
    values: Float[Array, "*B T H V"],
    *,
    grid: tuple[int, int],
    alpha: Float[Array, ""] | float = 1.0,
    beta: Float[Array, ""] | float = 0.0,
    centers: tuple[int, int] = (2, 2),
    regions: tuple[int, int] = (1, 1),
    denominator: str = "similarity",
    prefix_tokens: int = 0,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Mixes the points of a region through the cluster that each belongs to.

        s_mi = sigmoid(alpha cos(c_m, f_i) + beta) where m is the most similar centre of i, else 0
        g_m = (u_m + sum_i s_mi v_i) / (1 + n_m),   y_i = sum_m s_mi g_m

    The centres c and u are averages of the features and of the values over a part of the region.
    n_m is sum_i s_mi, as in the paper's equation 1. The first release counted the points of the
    cluster instead, which its authors have called a bug and mended. Gradients pass through the
    similarities and not through the choice of the centre. Cost is linear in T.

    Prefix tokens, which lie outside the grid, are the points of every cluster of every region, and
    read the mean over all of them.

    Args:
      features: [*B, T, H, K], T = prefix_tokens + Y * X.
      values: [*B, T, H, V].
      grid: (Y, X), which the regions divide.
      alpha: scale of the cosine, scalar, may be traced.
      beta: added to it, scalar, may be traced.
      centers: rows and columns of centres in each region.
      regions: rows and columns of regions.
      denominator: "similarity" (paper, and released code today) or "count" (the first release).
      prefix_tokens: leading tokens outside the grid.
      precision: of the matrix products.

    Returns:
      [*B, T, H, V] in the dtype of values.

    Raises:
      ValueError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1)
      >>> ops.context_cluster(x, x, grid=(1, 4), centers=(1, 2), alpha=50.0)[:, 0, 0]
      Array([ 1.,  1., -1., -1.], dtype=float32)

    Reference: context-cluster
    """
    check_rank(3, features=features, values=values)
    *batch, T, H, V = values.shape
    check_shape("features", features, (*batch, T, H, features.shape[-1]), "[*B, T, H, K]")
    check_choice("denominator", denominator, ("count", "similarity"))
    check_grid("grid", grid)
    require(
        prefix_tokens + grid[0] * grid[1] == T,
        f"values has shape {values.shape}; expected T = {prefix_tokens} + {grid[0]} * {grid[1]}.",
    )
    require(
        min(regions) >= 1 and all(side % parts == 0 for side, parts in zip(grid, regions)),
        f"regions={regions} do not divide grid={grid}.",
    )
    require(min(centers) >= 1, f"centers={centers}; expected positive numbers.")
    dtype = accumulator_dtype(features, values)
    alpha, beta = jnp.asarray(alpha, dtype), jnp.asarray(beta, dtype)
    options = {"precision": precision}

    def regional(x):
        """The points of each region: [*B, R, H, n, C]."""
        sides = [part for pair in zip(regions, grid) for part in (pair[0], pair[1] // pair[0])]
        x = x[..., prefix_tokens:, :, :].astype(dtype).reshape(*batch, *sides, H, x.shape[-1])
        x = jnp.moveaxis(x, (-6, -4, -2), (-6, -5, -4))  # [*B, f, g, H, y, x, C]
        return lax.collapse(lax.collapse(x, -3, -1), -5, -3)

    def prefix(x):
        """The prefix tokens as points of every region: [*B, 1, H, P, C]."""
        return jnp.moveaxis(x[..., :prefix_tokens, :, :].astype(dtype), -3, -2)[..., None, :, :, :]

    def similarity(middle, x):
        cosine = jnp.einsum("...mk,...nk->...mn", unit(middle), unit(x), **options)
        return jax.nn.sigmoid(alpha * cosine + beta)

    points, worth = regional(features), regional(values)
    sides = tuple(side // parts for side, parts in zip(grid, regions))

    def averages(x):
        maps = x.reshape(*x.shape[:-2], *sides, x.shape[-1])
        return lax.collapse(adaptive_avg_pool2d(maps, centers), -3, -1)

    middle, start = averages(points), averages(worth)
    near = similarity(middle, points)  # [*B, R, H, M, n]
    chosen = jax.nn.one_hot(jnp.argmax(near, axis=-2), near.shape[-2], axis=-2, dtype=dtype)
    near = near * chosen
    mass = jnp.sum(chosen if denominator == "count" else near, axis=-1, keepdims=True)
    total = start + jnp.matmul(near, worth, **options)
    if prefix_tokens:
        outside = similarity(middle, prefix(features))  # [*B, R, H, M, P]
        total += jnp.matmul(outside, prefix(values), **options)
        mass += (
            prefix_tokens if denominator == "count" else jnp.sum(outside, axis=-1, keepdims=True)
        )
    clusters = total / (1 + mass)
    y = jnp.matmul(jnp.swapaxes(near, -1, -2), clusters, **options)  # [*B, R, H, n, V]
    sides = [part for pair in zip(regions, grid) for part in (pair[0], pair[1] // pair[0])]
    y = y.reshape(*batch, regions[0], regions[1], H, sides[1], sides[3], V)
    y = lax.collapse(jnp.moveaxis(y, (-6, -5, -4), (-6, -4, -2)), -6, -2)
    if prefix_tokens:
        read = jnp.matmul(jnp.swapaxes(outside, -1, -2), clusters, **options) / clusters.shape[-2]
        y = jnp.concatenate([jnp.moveaxis(jnp.mean(read, -4), -2, -3), y], axis=-3)
    return y.astype(values.dtype)


@op("grid", "centers", "regions", "denominator", "prefix_tokens", "precision")
def context_cluster_matrix(
    features: Float[Array, "*B T H K"],
    *,
    grid: tuple[int, int],
    alpha: Float[Array, ""] | float = 1.0,
    beta: Float[Array, ""] | float = 0.0,
    centers: tuple[int, int] = (2, 2),
    regions: tuple[int, int] = (1, 1),
    denominator: str = "similarity",
    prefix_tokens: int = 0,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens by which `context_cluster` mixes the values.

        P_ij = sum_m s_mi (s_mj + q_mj) / (1 + n_m),  q_mj the weights of the average u_m

    Args:
      features: [*B, T, H, K], T = prefix_tokens + Y * X.
      grid: (Y, X), as in `context_cluster`, like all that follow.
      alpha: scale of the cosine.
      beta: added to it.
      centers: rows and columns of centres in each region.
      regions: rows and columns of regions.
      denominator: "similarity" or "count".
      prefix_tokens: leading tokens outside the grid.
      precision: of the matrix products.

    Returns:
      [*B, H, T, T] in the dtype of features, for small T.

    Raises:
      ValueError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1)
      >>> ops.context_cluster_matrix(x, grid=(1, 4), centers=(1, 2), alpha=50.0)[0]
      Array([[0.5, 0.5, 0. , 0. ],
             [0.5, 0.5, 0. , 0. ],
             [0. , 0. , 0.5, 0.5],
             [0. , 0. , 0.5, 0.5]], dtype=float32)

    Reference: context-cluster
    """
    check_rank(3, features=features)
    T = features.shape[-3]
    one_hot = jnp.broadcast_to(jnp.eye(T, dtype=features.dtype)[:, None], (*features.shape[:-1], T))
    matrix = context_cluster(
        features,
        one_hot,
        grid=grid,
        alpha=alpha,
        beta=beta,
        centers=centers,
        regions=regions,
        denominator=denominator,
        prefix_tokens=prefix_tokens,
        precision=precision,
    )
    return jnp.moveaxis(matrix, -2, -3)

"""Attention of every token over pooled keys: spatial reduction, and the pooling it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.tokens.pooling import pooling_matrix

REMAINDERS = ("drop", "keep")
Pair = int | tuple[int, int]


def _pair(name, value):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    require(
        len(pair) == 2 and all(isinstance(side, int) and side >= 1 for side in pair),
        f"{name}={value!r}: expected a positive integer or a pair of them.",
    )
    return pair


def _cell_weights(length, side):
    """[cells, length]: means over consecutive places, the last cell may be smaller."""
    member = np.arange(-(-length // side))[:, None] == np.arange(length)[None] // side
    return member / member.sum(1, keepdims=True)


def _weights(shape, ratio, size, dtype):
    """The means over rows and over columns, [cells, Y] and [cells, X]."""
    require(
        (ratio is None) != (size is None),
        f"ratio={ratio} and size={size}: expected one of them, and the other None.",
    )
    if size is not None:
        weights = [pooling_matrix(n, m) for n, m in zip(shape, _pair("size", size))]
    else:
        weights = [_cell_weights(n, r) for n, r in zip(shape, _pair("ratio", ratio))]
    return [jnp.asarray(matrix, dtype) for matrix in weights]


@op("window", "remainder")
def pool_tokens(
    x: Float[Array, "*B T C"], window: int, *, remainder: str = "drop"
) -> Float[Array, "*B S C"]:
    """Means over consecutive tokens, whatever the grid they lie on.

        y_s = mean of x_t over t = s w, ..., s w + w - 1

    Args:
      x: [*B, T, C] tokens.
      window: w; fewer tokens than that make one cell.
      remainder: tokens behind the last whole cell: "drop" leaves them out as the released code of
        Next-ViT does, "keep" makes a cell of them.

    Returns:
      [*B, S, C] in the dtype of x, with S = T // w, or rounded up.

    Raises:
      ValueError: a window below 1, an unknown remainder.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.pool_tokens(jnp.arange(5.0)[:, None], 2)[:, 0]
      Array([0.5, 2.5], dtype=float32)

    Reference: next-vit
    """
    check_rank(2, x=x)
    check_choice("remainder", remainder, REMAINDERS)
    require(window >= 1, f"window={window}; expected at least 1.")
    *batch, T, C = x.shape
    window = min(window, T)
    whole = T // window * window
    dtype = accumulator_dtype(x)
    cells = x[..., :whole, :].reshape(*batch, whole // window, window, C).astype(dtype).mean(-2)
    if remainder == "keep" and whole < T:
        rest = x[..., whole:, :].astype(dtype).mean(-2, keepdims=True)
        cells = jnp.concatenate([cells, rest], axis=-2)
    return cells.astype(x.dtype)


@op("ratio", "size", "normalizer", "precision")
def spatial_reduction_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    *,
    ratio: Pair | None = None,
    size: Pair | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention of tokens over the means of the keys and values of a map's cells.

        y = normalizer(scale q pool(k)^T) pool(v)

    What a mixer does when its reduction is a plain mean: T S / r^2 logits with cells of side r, a
    number linear in T with a fixed number of cells.

    Args:
      query: [*B, T, H, K]; any tokens, not only those of the map.
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      ratio: sides of a cell, one integer or (rows, columns); cells at the far edges may be smaller.
      size: cells along each axis instead, as in `adaptive_avg_pool2d`.
      scale: scalar factor of the logits, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product of the attention.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((4, 4, 1, 2))  # [Y, X, H, K]
      >>> ops.spatial_reduction_attention(x.reshape(16, 1, 2), x, x, ratio=2).shape
      (16, 1, 2)

    Reference: stm-evaluation, next-vit
    """
    key, value = (_pooled(x, ratio, size) for x in _checked(query, key, value))
    keywords = {"scale": scale, "normalizer": normalizer, "precision": precision}
    return dot_product_attention(query, key, value, **keywords)


@op("ratio", "size", "normalizer", "precision")
def spatial_reduction_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B Y X G K"],
    *,
    ratio: Pair | None = None,
    size: Pair | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights over the map's pixels by which `spatial_reduction_attention` mixes the values.

        P_ts = sum_c normalizer(scale q pool(k)^T)_tc pool_cs

    Args:
      query: [*B, T, H, K].
      key: [*B, Y, X, G, K], where G divides H.
      ratio: sides of a cell.
      size: cells along each axis.
      scale: scalar factor of the logits.
      normalizer: a name or a `Normalizer`.
      precision: of the matrix products.

    Returns:
      [*B, H, T, Y X] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 2, 1, 2))  # [Y, X, H, K]
      >>> ops.spatial_reduction_attention_matrix(x.reshape(4, 1, 2), x, ratio=2)[0, 0]
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Reference: stm-evaluation, next-vit
    """
    (key,) = _checked(query, key)
    rows, columns = _weights(key.shape[-4:-2], ratio, size, accumulator_dtype(query))
    keywords = {"scale": scale, "normalizer": normalizer, "precision": precision}
    weights = attention_matrix(query, _pooled(key, ratio, size), **keywords)
    cells = jnp.kron(rows, columns).astype(weights.dtype)  # [U V, Y X]
    return jnp.matmul(weights, align(cells, weights), precision=precision)


def _checked(query, *maps):
    check_rank(3, query=query)
    for name, x in zip(("key", "value"), maps):
        check_rank(4, **{name: x})
        layout = "[*B, Y, X, G, .] beside query"
        check_shape(name, x, (*query.shape[:-3], *maps[0].shape[-4:-1], x.shape[-1]), layout)
    return maps


def _pooled(x, ratio, size):
    """[*B, Y, X, G, K] -> [*B, U V, G, K]: the means of the cells."""
    *batch, Y, X, G, K = x.shape
    dtype = accumulator_dtype(x)
    rows, columns = _weights((Y, X), ratio, size, dtype)
    y = x.reshape(*batch, Y, X, G * K).astype(dtype)
    if Y % len(rows) == 0 and X % len(columns) == 0:
        cells = (len(rows), Y // len(rows), len(columns), X // len(columns), G * K)
        y = jnp.mean(y.reshape(*batch, *cells), axis=(-4, -2))
    else:
        exact = {"precision": jax.lax.Precision.HIGHEST}
        y = jnp.einsum("uy,...yxc->...uxc", rows, y, **exact)
        y = jnp.einsum("vx,...uxc->...uvc", columns, y, **exact)
    return y.astype(x.dtype).reshape(*batch, len(rows) * len(columns), G, K)

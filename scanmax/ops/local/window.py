"""Attention within windows, shifted windows, and blocks of queries with a halo of keys around them.

Cost and memory are linear in the pixels, the backward pass included; `local.blocks` evaluates them.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import scale_of
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.contract import check_choice, check_shape, op, require
from scanmax.ops.local.blocks import (
    Terms,
    as_maps,
    attend_blocks,
    check_maps,
    check_table,
    matrix_of,
)
from scanmax.ops.local.patterns import cut, halo_cut, pair, window_axis

Pair = int | tuple[int, int]


@op("window_size", "shift", "normalizer", "precision")
def window_attention(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    relative_bias: Float[Array, "H ry rx"] | None = None,
    *,
    window_size: Pair,
    shift: Pair = 0,
    global_key: Float[Array, "*B P G K"] | None = None,
    global_value: Float[Array, "*B P G V"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B Y X H V"]:
    """Attention within windows that tile the map, moved by `shift`.

        y_p = sum over q in the window of p of  normalizer(scale q_p . k_q + bias[q - p]) v_q

    Windows start at shift + i window_size; those that the edges cut are smaller, which is what
    rolling the map and masking by region computes. A map smaller than a window is one window, and
    is not shifted. No padding takes part.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      relative_bias: [H, 2 w - 1, 2 w' - 1], added by the difference of key and query; the middle
        is the query itself.
      window_size: w, or (w, w') for rows and columns.
      shift: 0 <= shift < window_size, one integer or two.
      global_key: [*B, P, G, K], keys that every query reads too (class tokens).
      global_value: [*B, P, G, V].
      scale: scalar factor of the products, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, Y, X, H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)  # [Y, X, H, K]
      >>> ops.window_attention(0 * x, x, x, window_size=2)[0, :, 0, 0]
      Array([0.5, 0.5, 2.5, 2.5], dtype=float32)

    Reference: stm-evaluation
    """
    check_maps(query, key, value, global_key, global_value)
    windows, shifts = pair("window_size", window_size, 1), pair("shift", shift, 0)
    require(
        all(s < w for s, w in zip(shifts, windows)),
        f"shift={shift} with window_size={window_size}: expected less than a window.",
    )
    check_table(relative_bias, query, tuple(2 * w - 1 for w in windows))
    normalizer = get_normalizer(normalizer, query.shape[-1])
    scale = scale_of(scale, query)
    terms = Terms(relative_bias, None, None, global_key, global_value)
    cuts, rolls = [], []
    for size, window, s in zip(query.shape[-4:-2], windows, shifts):
        window, s = min(window, size), s if size > window else 0
        # Rolling saves a row of windows where they would tile the map.
        rolls.append(s if size % window == 0 else 0)
        axis, missing = window_axis(size, window, s, rolls[-1] > 0)
        cuts.append(cut(axis, window, missing))
    query, key, value, terms, batch = as_maps(query, key, value, terms)
    query, key, value = (_roll(x, [-s for s in rolls]) for x in (query, key, value))
    y = attend_blocks(tuple(cuts), normalizer, query, key, value, terms, scale, precision)
    return _roll(y, rolls).reshape(*batch, *y.shape[1:])


@op("block_size", "halo", "stride", "edges", "normalizer", "precision")
def halo_attention(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    relative_rows: Float[Array, "ry K"] | None = None,
    relative_columns: Float[Array, "rx K"] | None = None,
    *,
    block_size: Pair,
    halo: Pair,
    stride: Pair = 1,
    edges: str = "masked",
    global_key: Float[Array, "*B P G K"] | None = None,
    global_value: Float[Array, "*B P G V"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B U W H V"]:
    """Attention of blocks of queries to their block and `halo` pixels around it.

        logits = scale q_p . k_q + q_p . rows[q_y - p_y] + q_p . columns[q_x - p_x]

    for q in the block of p, widened by the halo. The products with the relative embeddings, which
    the heads share, are not scaled, as in the public code. Keys outside the map are left out, as in
    the paper (edges="masked"), or are zero vectors that take part, as in the public code of
    HaloNet ("zero", which its weights need). With a stride every s-th query of a block is asked:
    differences are then those of the key's place in the block and the query's among those asked,
    as in the public code too.

    Args:
      query: [*B, Y, X, H, K], of which every `stride`-th is asked.
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      relative_rows: [2 (block + halo) - 1, K] by the difference of rows, 0 in the middle.
      relative_columns: the same by columns; both or neither.
      block_size: side of a block, or (rows, columns).
      halo: pixels around it, one integer or two.
      stride: s, one integer or two; divides the block.
      edges: "masked" or "zero".
      global_key: [*B, P, G, K], keys that every query reads too (class tokens).
      global_value: [*B, P, G, V].
      scale: scalar factor of q . k, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, ceil(Y / s), ceil(X / s), H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)  # [Y, X, H, K]
      >>> options = {"block_size": (1, 2), "halo": (0, 1)}
      >>> ops.halo_attention(0 * x, x, x, **options)[0, :, 0, 0]
      Array([1., 1., 2., 2.], dtype=float32)

    Reference: stm-evaluation
    """
    check_maps(query, key, value, global_key, global_value)
    check_choice("edges", edges, ("masked", "zero"))
    blocks, halos = pair("block_size", block_size, 1), pair("halo", halo, 0)
    strides = pair("stride", stride, 1)
    require(
        all(block % s == 0 for block, s in zip(blocks, strides)),
        f"stride={stride} with block_size={block_size}: expected a divisor.",
    )
    require(
        (relative_rows is None) == (relative_columns is None),
        "relative_rows and relative_columns are given together or not at all.",
    )
    for name, x, block, reach in zip(
        ("relative_rows", "relative_columns"), (relative_rows, relative_columns), blocks, halos
    ):
        shape = (2 * (block + reach) - 1, query.shape[-1])
        check_shape(name, x, shape, "[2 (block_size + halo) - 1, K]")
    cuts = tuple(
        halo_cut(size, block, reach, edges, s)
        for size, block, reach, s in zip(query.shape[-4:-2], blocks, halos, strides)
    )
    terms = Terms(None, relative_rows, relative_columns, global_key, global_value)
    normalizer = get_normalizer(normalizer, query.shape[-1])
    scale = scale_of(scale, query)
    query, key, value, terms, batch = as_maps(query, key, value, terms)
    query = query[:, :: strides[0], :: strides[1]]
    y = attend_blocks(cuts, normalizer, query, key, value, terms, scale, precision)
    return y.reshape(*batch, *y.shape[1:])


def _roll(x, by):
    """The map moved around by (rows, columns)."""
    for axis, s in zip((1, 2), by):
        x = jnp.roll(x, s, axis) if s else x
    return x


@op("window_size", "shift", "normalizer", "precision")
def window_attention_matrix(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    relative_bias: Float[Array, "H ry rx"] | None = None,
    *,
    window_size: Pair,
    shift: Pair = 0,
    global_key: Float[Array, "*B P G K"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `window_attention` mixes the values; for small maps.

    P[p, q] = normalizer(scale q_p . k_q + bias[q - p]) within a window, 0 elsewhere; pixels row
    by row, T = Y X.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K].
      relative_bias: [H, 2 w - 1, 2 w' - 1], as in `window_attention`, like all that follow.
      window_size: one integer or two.
      shift: one integer or two.
      global_key: [*B, P, G, K]; their columns stand first.
      scale: scalar factor of the products.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, T, P + T] in the dtype of query.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 3, 1, 1))
      >>> ops.window_attention_matrix(x, x, window_size=2, shift=1)[0]
      Array([[1. , 0. , 0. ],
             [0. , 0.5, 0.5],
             [0. , 0.5, 0.5]], dtype=float32)

    Reference: stm-evaluation
    """
    attend = functools.partial(
        window_attention,
        query,
        key,
        relative_bias=relative_bias,
        window_size=window_size,
        shift=shift,
        global_key=global_key,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return matrix_of(attend, query, key, global_key)


@op("block_size", "halo", "stride", "edges", "normalizer", "precision")
def halo_attention_matrix(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    relative_rows: Float[Array, "ry K"] | None = None,
    relative_columns: Float[Array, "rx K"] | None = None,
    *,
    block_size: Pair,
    halo: Pair,
    stride: Pair = 1,
    edges: str = "masked",
    global_key: Float[Array, "*B P G K"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `halo_attention` mixes the values; for small maps.

    P[p, q] = normalizer(scale q_p . k_q + q_p . rows[q_y - p_y] + q_p . columns[q_x - p_x]) for q
    in the widened block of p, 0 elsewhere; pixels row by row, T = Y X. What zeros outside the map
    receive is not shown.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K].
      relative_rows: as in `halo_attention`, like all that follow.
      relative_columns: both or neither.
      block_size: one integer or two.
      halo: one integer or two.
      stride: one integer or two.
      edges: "masked" or "zero".
      global_key: [*B, P, G, K]; their columns stand first.
      scale: scalar factor of q . k.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, ceil(Y / s) ceil(X / s), P + T] in the dtype of query.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 3, 1, 1))
      >>> options = {"block_size": (1, 2), "halo": (0, 1)}
      >>> ops.halo_attention_matrix(x, x, **options)[0, 2]
      Array([0. , 0.5, 0.5], dtype=float32)

    Reference: stm-evaluation
    """
    attend = functools.partial(
        halo_attention,
        query,
        key,
        relative_rows=relative_rows,
        relative_columns=relative_columns,
        block_size=block_size,
        halo=halo,
        stride=stride,
        edges=edges,
        global_key=global_key,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return matrix_of(attend, query, key, global_key)

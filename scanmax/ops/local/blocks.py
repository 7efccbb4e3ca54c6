"""The two evaluations that every local attention shares; neither makes a T x T matrix.

`attend_blocks` takes any pattern of `local.patterns`: blocks of queries against the keys that they
read together, one row of blocks at a time, so that only that row's logits exist. `attend_offsets`
takes neighbourhoods: all queries against one offset at a time, which for 3 x 3 keys is faster than
the unneeded products of a block. Both compute the logits again for the gradient: training keeps
the inputs alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from scanmax.ops.attention.normalizer import Normalizer, row_scores
from scanmax.ops.contract import (
    accumulator_dtype,
    check_rank,
    check_shape,
    platform,
    require,
)
from scanmax.ops.local.patterns import Cut


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a local attention adds to q k^T, and the keys that all queries read.

    Attributes:
      table: [H, ry, rx], added by key minus query, which is 0 in the middle of the table.
      rows: [ry, K], its product with the query is added by the difference of rows.
      columns: [rx, K], the same for columns.
      global_key: [B, P, G, K], keys that every query reads too.
      global_value: [B, P, G, V].
    """

    table: Array | None = None
    rows: Array | None = None
    columns: Array | None = None
    global_key: Array | None = None
    global_value: Array | None = None


def as_maps(query, key, value, terms: Terms):
    """One batch axis, and query and key of one dtype: (query, key, value, terms, batch)."""
    batch = query.shape[:-4]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(query.dtype, key.dtype)
    query, key, value = (lax.collapse(x, 0, -4) for x in (query, key, value))
    if terms.global_key is not None:
        terms = dataclasses.replace(
            terms,
            global_key=terms.global_key.reshape(-1, *terms.global_key.shape[-3:]).astype(dtype),
            global_value=terms.global_value.reshape(-1, *terms.global_value.shape[-3:]),
        )
    return query.astype(dtype), key.astype(dtype), value, terms, batch


def check_maps(query, key, value, global_key, global_value):
    """Refuses maps that do not fit together."""
    check_rank(4, query=query, key=key, value=value)
    *batch, Y, X, H, K = query.shape
    G = key.shape[-2]
    require(
        G > 0 and H % G == 0,
        f"key has shape {key.shape}: its {G} heads do not divide the {H} heads of query, whose "
        f"shape is {query.shape}.",
    )
    check_shape("key", key, (*batch, Y, X, G, K), "[*B, Y, X, G, K]")
    check_shape("value", value, (*batch, Y, X, G, value.shape[-1]), "[*B, Y, X, G, V]")
    require(
        (global_key is None) == (global_value is None),
        "global_key and global_value are given together or not at all.",
    )
    if global_key is not None:
        check_rank(3, global_key=global_key, global_value=global_value)
        P = global_key.shape[-3]
        check_shape("global_key", global_key, (*batch, P, G, K), "[*B, P, G, K]")
        shape = (*batch, P, G, value.shape[-1])
        check_shape("global_value", global_value, shape, "[*B, P, G, V]")
    for name, x in (("query", query), ("key", key), ("value", value)):
        require(
            jnp.issubdtype(x.dtype, jnp.floating),
            f"{name} has dtype {x.dtype}; expected a floating one.",
        )


def check_table(table, query, reach, name="relative_bias"):
    """Refuses a table of other heads or sides."""
    check_shape(name, table, (query.shape[-2], *reach), "[H, rows, columns]")


def count(global_key):
    """How many keys all queries read."""
    return 0 if global_key is None else global_key.shape[-3]


def matrix_of(attend, query, key, global_key):
    """The weights of `attend(value, global_value)`, [*B, H, Tq, P + T]."""
    *batch, Y, X, G, _ = key.shape
    P, T = count(global_key), Y * X
    dtype = accumulator_dtype(query, key)
    units = jnp.eye(P + T, dtype=dtype)
    places = units[P:].reshape(*(1,) * len(batch), Y, X, 1, P + T)
    value = jnp.broadcast_to(places, (*batch, Y, X, G, P + T))
    before = None
    if global_key is not None:
        before = units[:P].reshape(*(1,) * len(batch), P, 1, P + T)
        before = jnp.broadcast_to(before, (*batch, P, G, P + T))
    y = attend(value=value, global_value=before)  # [*B, Yq, Xq, H, P + T]
    y = y.reshape(*batch, y.shape[-4] * y.shape[-3], *y.shape[-2:])
    return jnp.swapaxes(y, -3, -2).astype(query.dtype)


def attend_blocks(
    cuts: tuple[Cut, Cut],
    normalizer: Normalizer,
    query,
    key,
    value,
    terms,
    scale,
    precision,
):
    """[B, Yq, Xq, H, V] in the dtype of value, for maps with one batch axis."""
    across, along = cuts
    B, _, _, H, K = query.shape
    G, V = value.shape[-2:]
    dtype = accumulator_dtype(query, key, value)
    scale = scale.astype(dtype)
    blocks, Q = along.axis.classes * along.blocks, across.queries * along.queries
    P = 0 if terms.global_key is None else terms.global_key.shape[1]
    added = _table(terms.table, cuts, dtype)
    columns_allowed = None if along.allowed is None else jnp.asarray(along.allowed)

    def row_of_blocks(query, key, value, rows_allowed, terms, added):
        # [B, b, X, H, K] and [B, m, X, G, K]
        q = _heads_first(along.split_queries(query, 2))
        k = _heads_first(along.split_keys(key, 2))
        v = _heads_first(along.split_keys(value, 2))
        k, v = (lax.collapse(x, 3, -1) for x in (k, v))
        if P:
            k = jnp.concatenate([_for_blocks(terms.global_key, blocks), k], 3)
            v = jnp.concatenate([_for_blocks(terms.global_value, blocks), v], 3)
        logits = jnp.einsum(
            "bngqk,bngsk->bngqs",
            q.reshape(B, blocks, G, H // G * Q, K),
            k,
            precision=precision,
            preferred_element_type=dtype,
        )
        logits = logits.reshape(B, blocks, H, Q, logits.shape[-1]) * scale
        if added is not None:
            logits = logits + _behind(added, P)[None, None]
        if terms.rows is not None:
            logits = logits + _behind(_relative(q, terms, cuts, dtype, precision), P)
        allowed = _allowed(rows_allowed, columns_allowed, across, along)
        counts = None
        if normalizer.counts_keys:
            counts = _counts(allowed, P, logits.shape, dtype)
        if allowed is not None:
            allowed = jnp.pad(allowed, ((0, 0), (0, 0), (P, 0)), constant_values=True)
            logits = jnp.where(allowed[None, :, None], logits, -jnp.inf)
        scores, total = row_scores(normalizer, logits, counts)
        y = jnp.einsum(
            "bngqs,bngsv->bngqv",
            scores.astype(v.dtype).reshape(B, blocks, G, H // G * Q, v.shape[-2]),
            v,
            precision=precision,
            preferred_element_type=dtype,
        ).reshape(B, blocks, H, Q, V)
        if total is not None:
            y = y / jnp.where(total == 0, jnp.ones_like(total), total)
        y = y.reshape(B, blocks, H, across.queries, along.queries, V)
        y = jnp.transpose(y, (0, 3, 1, 4, 2, 5))  # [B, b, blocks, b', H, V]
        return along.join_queries(y, 2).astype(value.dtype)

    by_row = (
        jnp.moveaxis(across.split_queries(query, 1), 1, 0),
        jnp.moveaxis(across.split_keys(key, 1), 1, 0),
        jnp.moveaxis(across.split_keys(value, 1), 1, 0),
        None if across.allowed is None else jnp.asarray(across.allowed),
    )
    step = jax.checkpoint(row_of_blocks)
    y = lax.map(lambda row: step(*row, terms, added), by_row)
    return across.join_queries(jnp.moveaxis(y, 0, 1), 1)


def _heads_first(x):
    """[B, b, n, b', H, K] -> [B, n, H, b, b', K]."""
    return jnp.transpose(x, (0, 2, 4, 1, 3, 5))


def _for_blocks(x, blocks):
    """[B, P, G, K] -> [B, blocks, G, P, K]."""
    x = jnp.swapaxes(x, 1, 2)[:, None]
    return jnp.broadcast_to(x, (x.shape[0], blocks, *x.shape[2:]))


def _behind(x, count):
    """Zeros for the global keys before the last axis."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(count, 0)]) if count else x


def _index(cut: Cut, size: int) -> np.ndarray:
    """Where each pair of a block stands in a table of that size; masked pairs stand anywhere."""
    return np.clip(cut.relative + size // 2, 0, size - 1)


def _table(table, cuts, dtype):
    """[H, ry, rx] -> [H, Q, S]."""
    if table is None:
        return None
    rows, columns = (_index(cut, size) for cut, size in zip(cuts, table.shape[1:]))
    x = table.astype(dtype)[:, rows][:, :, :, columns]  # [H, b, m, b', m']
    x = jnp.swapaxes(x, 2, 3)
    return lax.collapse(lax.collapse(x, 1, 3), 2)


def _relative(q, terms, cuts, dtype, precision):
    """Products of queries [B, n, H, b, b', K] and embedded differences: [B, n, H, Q, S]."""
    rows, columns = (
        jnp.take(x, _index(cut, x.shape[0]), axis=0).astype(q.dtype)
        for x, cut in zip((terms.rows, terms.columns), cuts)
    )
    options = {"precision": precision, "preferred_element_type": dtype}
    by_row = jnp.einsum("bnhtuk,tmk->bnhtum", q, rows, **options)
    by_column = jnp.einsum("bnhtuk,umk->bnhtum", q, columns, **options)
    x = by_row[..., :, None] + by_column[..., None, :]
    return lax.collapse(lax.collapse(x, 3, 5), 4)


def _allowed(rows, columns, across, along):
    """Which pairs take part, [blocks of the row or 1, Q, S]; None for all."""
    if rows is None and columns is None:
        return None
    if rows is None:
        rows = jnp.ones((across.queries, across.keys), bool)
    if columns is None:
        columns = jnp.ones((1, along.queries, along.keys), bool)
    x = rows[None, :, None, :, None] & columns[:, None, :, None, :]
    return x.reshape(x.shape[0], across.queries * along.queries, -1)


def _counts(allowed, more, shape, dtype):
    """How many keys each query may read: [1, blocks, 1, Q, 1], at least 1."""
    if allowed is None:
        return jnp.full((1,) * len(shape), max(shape[-1], 1), dtype)
    counts = jnp.sum(allowed, -1, dtype=jnp.int32) + more
    return jnp.maximum(counts, 1).astype(dtype)[None, :, None, :, None]


@dataclasses.dataclass(frozen=True)
class Offsets:
    """A neighbourhood by its offsets; everything static.

    Attributes:
      kernel: rows and columns of keys.
      stride: keys from one query to the next.
      dilation: keys from one offset to the next.
      outside: keys beyond the map take part, as zeros; otherwise they do not.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    outside: bool = False

    def padded(self, x):
        """[B, Y, X, H, K] with zeros around it."""
        reach = [k // 2 * d for k, d in zip(self.kernel, self.dilation)]
        return jnp.pad(x, ((0, 0), *((r, r) for r in reach), (0, 0), (0, 0)))

    def each(self, x, queries: tuple[int, int]):
        """The padded map as each offset sees it, one after another: [B, Yq, Xq, H, K]."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                spans = [
                    slice(o * d, o * d + (n - 1) * s + 1, s)
                    for o, d, n, s in zip((i, j), self.dilation, queries, self.stride)
                ]
                yield x[:, spans[0], spans[1]]

    def seen(self, size: tuple[int, int]) -> np.ndarray:
        """[Yq, Xq, offsets]: which offsets lie on the map."""
        by_axis = []
        for n, k, s, d in zip(size, self.kernel, self.stride, self.dilation):
            place = np.arange(0, n, s)[:, None] + (np.arange(k) - k // 2) * d
            by_axis.append((place >= 0) & (place < n))
        rows, columns = by_axis
        seen = rows[:, None, :, None] & columns[None, :, None, :]
        return seen.reshape(*seen.shape[:2], -1)

    def logits(self, query, key, dtype, precision):
        """[B, Yq, Xq, H, offsets], not scaled."""
        H, K, G = *query.shape[-2:], key.shape[-2]
        query = query.astype(dtype).reshape(*query.shape[:-2], G, H // G, K)
        key = self.padded(key.astype(dtype))[..., None, :]  # [B, Y, X, G, 1, K]
        products = (query * k for k in self._each_grouped(key, query.shape[1:3]))
        sums = [_sum_of_heads(x, precision).reshape(*x.shape[:3], H) for x in products]
        return jnp.stack(sums, -1)

    def mix(self, weights, value, dtype):
        """sum_o weights[.., o] value at o: [B, Yq, Xq, H, V]."""
        H, (G, V) = weights.shape[-2], value.shape[-2:]
        weights = weights.astype(dtype)
        weights = weights.reshape(*weights.shape[:3], G, H // G, 1, weights.shape[-1])
        value = self.padded(value.astype(dtype))[..., None, :]
        y = None
        for o, v in enumerate(self._each_grouped(value, weights.shape[1:3])):
            y = weights[..., o] * v if y is None else y + weights[..., o] * v
        return y.reshape(*y.shape[:3], H, V)

    def _each_grouped(self, x, queries):
        flat = lax.collapse(x, 3, -1)
        for seen in self.each(flat, queries):
            yield seen.reshape(*seen.shape[:3], *x.shape[3:])


def _sum_of_heads(x, precision):
    """[.., G, R, K] summed over K."""
    width = x.shape[-1]
    if width == 1:
        return x[..., 0]
    if platform() != "cpu":
        return jnp.sum(x, -1)
    # XLA on CPU adds along the last axis one number after another; a product with ones does not.
    heads = x.shape[-3] * x.shape[-2]
    ones = jnp.asarray(np.repeat(np.eye(heads), width, 0), x.dtype)
    sums = jnp.matmul(lax.collapse(lax.collapse(x, -3), 0, -1), ones, precision=precision)
    return sums.reshape(x.shape[:-1])


def attend_offsets(
    offsets: Offsets,
    normalizer: Normalizer,
    query,
    key,
    value,
    terms,
    scale,
    precision,
    global_bias=None,
    added_weights=None,
):
    """[B, Yq, Xq, H, V] in the dtype of value, for maps with one batch axis.

    `global_bias` [H, Yq, Xq, P] is added to the logits of the global keys, `added_weights`
    [B, Yq, Xq, H, offsets] to the weights of the offsets.
    """
    dtype = accumulator_dtype(query, key, value)
    size = key.shape[1:3]
    query = query[:, :: offsets.stride[0], :: offsets.stride[1]]
    count = offsets.kernel[0] * offsets.kernel[1]

    @jax.checkpoint
    def attend(query, key, value, terms, scale, global_bias, added_weights):
        logits = offsets.logits(query, key, dtype, precision) * scale.astype(dtype)
        if terms.table is not None:
            logits = logits + terms.table.astype(dtype).reshape(1, 1, 1, -1, count)
        counts, seen = None, offsets.seen(size)
        if not offsets.outside:
            logits = jnp.where(jnp.asarray(seen)[None, :, :, None], logits, -jnp.inf)
        if normalizer.counts_keys:
            visible = np.full(seen.shape[:2], count) if offsets.outside else seen.sum(-1)
            if terms.global_key is not None:
                visible = visible + terms.global_key.shape[1]
            counts = jnp.asarray(np.maximum(visible, 1), dtype)[None, :, :, None, None]
        if terms.global_key is not None:
            more = _global_logits(query, terms.global_key, dtype, precision) * scale.astype(dtype)
            if global_bias is not None:
                more = more + jnp.moveaxis(global_bias.astype(dtype), 0, 2)[None]
            logits = jnp.concatenate([logits, more], -1)
        scores, total = row_scores(normalizer, logits, counts)
        if total is not None:
            scores = scores / jnp.where(total == 0, jnp.ones_like(total), total)
        local = scores[..., :count]
        if added_weights is not None:
            local = local + added_weights.astype(dtype)
        y = offsets.mix(local, value, dtype)
        if terms.global_key is not None:
            y = y + _global_mix(scores[..., count:], terms.global_value, dtype, precision)
        return y.astype(value.dtype)

    return attend(query, key, value, terms, scale, global_bias, added_weights)


def _global_logits(query, key, dtype, precision):
    """[B, Y, X, H, K], [B, P, G, K] -> [B, Y, X, H, P]."""
    G = key.shape[-2]
    q = _by_group(query, G)
    options = {"precision": precision, "preferred_element_type": dtype}
    x = jnp.einsum("byxgrk,bpgk->byxgrp", q, key, **options)
    return lax.collapse(x, 3, 5)


def _global_mix(weights, value, dtype, precision):
    """[B, Y, X, H, P], [B, P, G, V] -> [B, Y, X, H, V]."""
    G = value.shape[-2]
    w = _by_group(weights.astype(value.dtype), G)
    options = {"precision": precision, "preferred_element_type": dtype}
    y = jnp.einsum("byxgrp,bpgv->byxgrv", w, value, **options)
    return lax.collapse(y, 3, 5)


def _by_group(x, groups):
    """[B, Y, X, H, K] -> [B, Y, X, G, R, K]."""
    return x.reshape(*x.shape[:3], groups, x.shape[3] // groups, x.shape[4])


jax.tree_util.register_dataclass(
    Terms,
    data_fields=["table", "rows", "columns", "global_key", "global_value"],
    meta_fields=[],
)

"""Attention over blocks of queries and keys: exact, and never more than one block of logits.

The forward pass keeps, per query row, what its weights are computed from again: the level its
scores were shifted by and the inverse of their sum (see `normalizer`). The backward pass recomputes
each block of weights P and of logit gradients dL from them:

    P = score(l) / z      dL = score'(l) / z * (dO V^T - D)      D = sum(dO * O), or 0 unnormalized
    dV = P^T dO           dQ = scale dL K                        dK = scale dL^T Q

Blocks that `is_causal` or `local_window_size` empties are never visited, in either pass.

A normalizer that needs several passes over the keys is evaluated by `attention.passes`, on the
blocks and with the backward pass of this module.

Arrays are head-first inside, with query heads [G, R] over G key heads, so that each block is one
matrix product per key head. Gradients of keys and values are accumulated transposed: a product
whose large operand has the contracted axis first is half as fast on CPU.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from scanmax.ops.attention.normalizer import Normalizer, needs_passes
from scanmax.ops.contract import accumulator_dtype, vary_like
from scanmax.ops.segments import segment_starts
from scanmax.ops.softmax.softmax import divide


class PackedMask(NamedTuple):
    """A mask [*B, H, T, S] with axes of 1, or None, and the runs that each place belongs to."""

    mask: Array | None
    rows: Array  # [*B, 1, T, 1]
    columns: Array  # [*B, 1, 1, S]


def pack_mask(mask, segment_ids):
    """A mask that, besides, keeps segments apart, without the matrix that says so."""
    if segment_ids is None:
        return mask
    runs = jnp.cumsum(segment_starts(segment_ids), -1, dtype=jnp.int32)
    return PackedMask(mask, runs[..., None, :, None], runs[..., None, None, :])


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part of a call.

    The window is (left, right), None for unbounded on that side; `relative` is a term of
    `relative_term`, whose arrays follow the others.
    """

    normalizer: Normalizer
    left: int | None
    right: int | None
    logits_soft_cap: float | None
    chunks: tuple[int, int]
    precision: object
    relative: object = None


class _Blocks:
    """The arrays of one call, cut into blocks: what both passes share."""

    def __init__(self, plan, query, key, value, bias, mask, scale, key_lengths, *terms):
        self.plan = plan
        self.terms = terms  # the parameter of plan.relative, places of queries, places of keys
        *self.batch, self.T, H, self.K = query.shape
        *_, self.S, self.G, self.V = value.shape
        self.R = H // self.G
        self.dtype = accumulator_dtype(query, key, value)
        self.scale = scale.astype(self.dtype)
        self.bq, self.bk = plan.chunks
        self.nq, self.nk = -(-self.T // self.bq), -(-self.S // self.bk)
        self.q = self.rows(query)  # [*B, G, R, T, K]
        self.k = self.columns(key)  # [*B, G, S, K]
        self.v = self.columns(value)
        self.bias = self.matrix(bias)
        runs = ()
        if isinstance(mask, PackedMask):
            mask, *runs = mask
        self.mask = self.matrix(mask)
        self.runs = [self.matrix(run) for run in runs]
        self.key_lengths = self.visible = None
        if key_lengths is not None:
            self.key_lengths = key_lengths.reshape(*key_lengths.shape, 1, 1, 1, 1)
        if plan.normalizer.counts_keys:
            window = (plan.left, plan.right)
            seen = mask
            if runs:
                same = runs[0] == runs[1]
                seen = same if mask is None else mask & same
            visible = visible_keys(query, self.S, window, key_lengths, seen, self.dtype)
            self.visible = self.matrix(visible, fill=1)
        self.arrays = (query, key, value, bias, mask, scale, key_lengths, *terms)

    def rows(self, x):
        """[*B, T, H, K] -> [*B, G, R, padded T, K]."""
        x = x.reshape(*x.shape[:-2], self.G, self.R, x.shape[-1])
        x = jnp.moveaxis(x, -4, -2)
        return _pad(x, -2, self.nq * self.bq)

    def columns(self, x):
        """[*B, S, G, K] -> [*B, G, padded S, K]."""
        return _pad(jnp.moveaxis(x, -3, -2), -2, self.nk * self.bk)

    def matrix(self, x, fill=0):
        """[*B, H, T, S] with axes of 1 -> [*B, G, R, padded T, padded S], axes of 1 kept."""
        if x is None:
            return None
        heads = (1, 1) if x.shape[-3] == 1 else (self.G, self.R)
        x = x.reshape(*x.shape[:-3], *heads, *x.shape[-2:])
        x = x if x.shape[-2] == 1 else _pad(x, -2, self.nq * self.bq, fill)
        return x if x.shape[-1] == 1 else _pad(x, -1, self.nk * self.bk, fill)

    def unrows(self, x):
        """[*B, G, R, padded T, K] -> [*B, T, H, K]."""
        x = lax.slice_in_dim(x, 0, self.T, axis=x.ndim - 2)
        x = jnp.moveaxis(x, -2, -4)
        return x.reshape(*x.shape[:-3], self.G * self.R, x.shape[-1])

    def keys_counted(self, i):
        """The num_keys of query block i: the keys each row may see, where the scores read it."""
        if self.visible is None:
            return None
        return self.visible if self.visible.shape[-2] == 1 else self.query_block(self.visible, i)

    def query_block(self, x, i):
        return lax.dynamic_slice_in_dim(x, i * self.bq, self.bq, axis=x.ndim - 2)

    def key_block(self, x, j):
        return lax.dynamic_slice_in_dim(x, j * self.bk, self.bk, axis=x.ndim - 2)

    def matrix_start(self, x, i, j):
        row = 0 if x.shape[-2] == 1 else i * self.bq
        column = 0 if x.shape[-1] == 1 else j * self.bk
        return [jnp.asarray(start, jnp.int32) for start in (*([0] * (x.ndim - 2)), row, column)]

    def matrix_block(self, x, i, j):
        rows = 1 if x.shape[-2] == 1 else self.bq
        columns = 1 if x.shape[-1] == 1 else self.bk
        sizes = (*x.shape[:-2], rows, columns)
        return lax.dynamic_slice(x, self.matrix_start(x, i, j), sizes)

    def dot(self, subscripts, x, y):
        return jnp.einsum(
            subscripts,
            x,
            y,
            precision=self.plan.precision,
            preferred_element_type=self.dtype,
        )

    def logits(self, q, k, i, j):
        """The block's logits, -inf where masked, and the slope of the soft cap (or None)."""
        cap = self.plan.logits_soft_cap
        logits = self.dot("...grqk,...gsk->...grqs", q, k) * self.scale
        slope = None
        if cap is not None:
            t = jnp.tanh(logits / cap)
            logits, slope = cap * t, 1 - t * t
        if self.bias is not None:
            logits = logits + self.matrix_block(self.bias, i, j).astype(self.dtype)
        if self.has_term("logits"):
            logits = logits + self.term(self.terms[0], i, j)
        allowed = self.allowed(i, j)
        if allowed is not None:
            logits = jnp.where(allowed, logits, -jnp.inf)
        return logits, slope

    def has_term(self, placement):
        """Whether the call has a relative term, and in this place."""
        return self.plan.relative is not None and self.plan.relative.placement == placement

    def term(self, parameter, i, j):
        """The block of the relative term, [G, R, bq, bk] or of one head, at the logits' rank."""
        rows = i * self.bq + jnp.arange(self.bq, dtype=jnp.int32)
        columns = j * self.bk + jnp.arange(self.bk, dtype=jnp.int32)
        parameter = parameter.astype(self.dtype)
        block = self.plan.relative.block(parameter, *self.terms[1:], rows, columns)
        heads = (1, 1) if block.shape[0] == 1 else (self.G, self.R)
        return block.reshape((1,) * len(self.batch) + heads + block.shape[1:])

    def weighed(self, scores, i, j):
        """The scores, times the relative term where it multiplies weights."""
        return scores * self.term(self.terms[0], i, j) if self.has_term("weights") else scores

    def allowed(self, i, j):
        """Which entries of the block take part; None for all, rank of the logits otherwise."""
        left, right = self.plan.left, self.plan.right
        ones = (1,) * (len(self.batch) + 2)
        row = i * self.bq + lax.broadcasted_iota(jnp.int32, (*ones, self.bq, 1), len(ones))
        column = j * self.bk + lax.broadcasted_iota(jnp.int32, (*ones, 1, self.bk), len(ones) + 1)
        conditions = []
        if self.key_lengths is not None:
            conditions.append(column < self.key_lengths)
        elif self.nk * self.bk > self.S:
            conditions.append(column < self.S)
        if right is not None:
            conditions.append(column <= row + right)
        if left is not None:
            conditions.append(column >= row - left)
        if self.mask is not None:
            conditions.append(self.matrix_block(self.mask, i, j))
        if self.runs:
            rows, columns = (self.matrix_block(run, i, j) for run in self.runs)
            conditions.append(rows == columns)
        return functools.reduce(jnp.logical_and, conditions) if conditions else None

    def keys_seen(self, i):
        """The range of key blocks in which query block i attends to anything."""
        first, last = 0, self.nk
        if self.plan.left is not None:
            first = jnp.maximum(i * self.bq - self.plan.left, 0) // self.bk
        if self.plan.right is not None:
            furthest = i * self.bq + (self.bq - 1 + self.plan.right)
            last = jnp.minimum(furthest // self.bk + 1, self.nk)
        return first, last

    def queries_seeing(self, j):
        """The range of query blocks that attend to anything in key block j."""
        first, last = 0, self.nq
        if self.plan.right is not None:
            first = jnp.maximum(j * self.bk - self.plan.right, 0) // self.bq
        if self.plan.left is not None:
            furthest = j * self.bk + (self.bk - 1 + self.plan.left)
            last = jnp.minimum(furthest // self.bq + 1, self.nq)
        return first, last

    def carry(self, shape, fill=0.0):
        return vary_like(jnp.full(shape, fill, self.dtype), *jax.tree.leaves(self.arrays))


def visible_keys(query, S, window, key_lengths, mask, dtype):
    """How many keys each query may attend to, biases aside: [*B, H, T, 1] with axes of 1.

    At least 1, so that nothing is divided by the number of keys of a row without any.
    """
    *batch, T, _, _ = query.shape
    ones = (1,) * (len(batch) + 1)
    row = jnp.arange(T, dtype=jnp.int32).reshape(*ones, T, 1)
    left, right = window
    end = jnp.asarray(S, jnp.int32)
    if key_lengths is not None:
        end = jnp.clip(key_lengths, 0, S).reshape(*key_lengths.shape, 1, 1, 1)
    first = jnp.zeros_like(row) if left is None else jnp.maximum(row - left, 0)
    end = end if right is None else jnp.minimum(row + (right + 1), end)
    if mask is None:
        return jnp.maximum(end - first, 1).astype(dtype)
    column = jnp.arange(S, dtype=jnp.int32).reshape(*ones, 1, S)
    allowed = (column >= first) & (column < end) & mask
    return jnp.maximum(jnp.sum(allowed, -1, keepdims=True, dtype=jnp.int32), 1).astype(dtype)


def _pad(x, axis, size, fill=0):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, padding, constant_values=fill) if padding[axis][1] else x


def _loop(bounds, body, carry):
    first, last = (jnp.asarray(bound, jnp.int32) for bound in bounds)
    return lax.fori_loop(first, last, body, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def stream(plan, query, key, value, bias, mask, scale, key_lengths, *terms):
    """Attention by blocks: [*B, T, H, V] in the dtype of value."""
    return _forward(plan, query, key, value, bias, mask, scale, key_lengths, *terms)[0]


def _forward(plan, *arrays):
    if needs_passes(plan.normalizer):
        raise NotImplementedError(
            f"{plan.normalizer} needs several passes over the keys; only `dot_product_attention` "
            "streams it."
        )
    blocks, value = _Blocks(plan, *arrays), arrays[2]

    def query_block(i):
        y, level, inverse = finish_row(plan.normalizer, add_keys(blocks, i, start_row(blocks, i)))
        return y.astype(value.dtype), level, inverse

    y, level, inverse = lax.map(query_block, jnp.arange(blocks.nq, dtype=jnp.int32))
    return blocks.unrows(join_rows(y)), level, inverse


def start_row(blocks, i):
    """Level, total and output of query block i before its first key, [*B, G, R, bq (, V)]."""
    normalizer, rows = blocks.plan.normalizer, (*blocks.batch, blocks.G, blocks.R, blocks.bq)
    level, total = None, None
    if normalizer.shifted:
        level = blocks.carry(rows, -jnp.inf)
    if normalizer.normalized:
        total = blocks.carry(rows)
    if normalizer.null_logit is not None:
        null = blocks.carry((*rows, 1), normalizer.null_logit)
        shift = normalizer.level(null) if normalizer.shifted else None
        total = normalizer.score(null, shift, blocks.keys_counted(i))[..., 0]
        level = shift[..., 0] if normalizer.shifted else None
    return level, total, blocks.carry((*rows, blocks.V))


def add_keys(blocks, i, carry):
    """What `start_row` began, with all key blocks that query block i sees."""
    normalizer, q = blocks.plan.normalizer, blocks.query_block(blocks.q, i)
    num_keys = blocks.keys_counted(i)

    def key_block(j, carry):
        level, total, y = carry
        logits, _ = blocks.logits(q, blocks.key_block(blocks.k, j), i, j)
        shift = None
        if normalizer.shifted:
            new = jnp.maximum(level, jnp.max(normalizer.level(logits), -1))
            finite = jnp.where(new == -jnp.inf, jnp.zeros_like(new), new)
            factor = normalizer.rescale(level, finite)
            total, y, level = total * factor, y * factor[..., None], new
            shift = finite[..., None]
        scores = normalizer.score(logits, shift, num_keys)
        if normalizer.normalized:
            total = total + jnp.sum(scores, -1)
        v = blocks.key_block(blocks.v, j)
        scores = blocks.weighed(scores, i, j)
        y = y + blocks.dot("...grqs,...gsv->...grqv", scores.astype(v.dtype), v)
        return level, total, y

    return _loop(blocks.keys_seen(i), key_block, carry)


def finish_row(normalizer, carry):
    """The output, the level, and the inverse of the total of rows that have met all keys."""
    level, total, y = carry
    if normalizer.shifted:
        level = jnp.where(level == -jnp.inf, jnp.zeros_like(level), level)
    if normalizer.normalized:
        total = divide(jnp.ones_like(total), total)
        y = y * total[..., None]
    return y, level, total


def join_rows(x):
    """Query blocks [nq, *B, G, R, bq, V] -> [*B, G, R, padded T, V]."""
    return lax.collapse(jnp.moveaxis(x, 0, -3), -3, -1)


def _stream_forward(plan, *arrays):
    y, level, inverse = _forward(plan, *arrays)
    return y, (arrays, y, level, inverse)


def row_statistic(x, i):
    """What query block i kept per row, [nq, ..., bq] -> [..., bq, 1]."""
    return lax.dynamic_index_in_dim(x, i, keepdims=False)[..., None]


def _stream_backward(plan, residuals, d_y):
    arrays, y, level, inverse = residuals
    blocks = _Blocks(plan, *arrays)
    d_y = blocks.rows(d_y)  # [*B, G, R, T, V]
    weigh = weigh_rows(blocks, (level, inverse), d_y, blocks.rows(y))
    return backward(blocks, arrays, d_y, weigh)


def weigh_rows(blocks, statistics, d_y, y):
    """`weigh` of `backward`, from the statistics of `finish_row` and the output's gradient."""
    normalizer, (level, inverse) = blocks.plan.normalizer, statistics
    drop = row_products(blocks, d_y, y) if normalizer.normalized else None

    def weigh(logits, d_weights, i):
        shift = row_statistic(level, i) if normalizer.shifted else None

        def score(logits):
            return normalizer.score(logits, shift, blocks.keys_counted(i))

        scores, slopes = jax.jvp(score, (logits,), (jnp.ones_like(logits),))
        if normalizer.normalized:
            d_weights = d_weights - blocks.query_block(drop, i)
            scores = scores * row_statistic(inverse, i)
            slopes = slopes * row_statistic(inverse, i)
        return scores, slopes * d_weights

    return weigh


def row_products(blocks, x, y):
    """sum_v x y in accumulator precision, the axis kept: [*B, G, R, T, 1]."""
    return jnp.sum(x.astype(blocks.dtype) * y.astype(blocks.dtype), -1, keepdims=True)


def backward(blocks, arrays, d_y, weigh, cast=True):
    """Gradients of all arrays, block by block, given d_y [*B, G, R, padded T, V].

    `weigh(logits, d_weights, i)` computes a block's weights, and the gradient of its logits from
    that of its weights; i is the query block. Without `cast` the gradients stay in accumulator
    precision.
    """
    query, key, value, bias, _, scale, _, *terms = arrays
    q_t, d_y_t = jnp.swapaxes(blocks.q, -1, -2), jnp.swapaxes(d_y, -1, -2)

    def columns_of(x, i):
        return lax.dynamic_slice_in_dim(x, i * blocks.bq, blocks.bq, axis=x.ndim - 1)

    def key_block(carry, j):
        k, v = blocks.key_block(blocks.k, j), blocks.key_block(blocks.v, j)

        def query_block(i, carry):
            d_q, d_k, d_v, d_bias, d_parameter = carry
            logits, slope = blocks.logits(blocks.query_block(blocks.q, i), k, i, j)
            d_weights = blocks.dot(
                "...grqv,...gsv->...grqs", blocks.query_block(d_y, i).astype(v.dtype), v
            )
            weights, d_logits = weigh(logits, blocks.weighed(d_weights, i, j), i)
            if blocks.plan.relative is not None:
                d_term = weights * d_weights if blocks.has_term("weights") else d_logits
                d_parameter = d_parameter + _pull_back(blocks, d_term, i, j)
                weights = blocks.weighed(weights, i, j)
            d_v = d_v + blocks.dot(
                "...grvq,...grqs->...gvs", columns_of(d_y_t, i), weights.astype(d_y_t.dtype)
            )
            if bias is not None:
                start = blocks.matrix_start(d_bias, i, j)
                old = blocks.matrix_block(d_bias, i, j)
                new = old + _sum_to(d_logits, old.shape)
                d_bias = lax.dynamic_update_slice(d_bias, new, start)
            d_logits = (d_logits if slope is None else d_logits * slope).astype(key.dtype)
            d_k = d_k + blocks.dot("...grkq,...grqs->...gks", columns_of(q_t, i), d_logits)
            new = blocks.query_block(d_q, i) + blocks.dot("...grqs,...gsk->...grqk", d_logits, k)
            d_q = lax.dynamic_update_slice_in_dim(d_q, new, i * blocks.bq, axis=d_q.ndim - 2)
            return d_q, d_k, d_v, d_bias, d_parameter

        d_q, d_bias, d_parameter = carry
        heads = (*blocks.batch, blocks.G)
        d_k = blocks.carry((*heads, blocks.K, blocks.bk))
        d_v = blocks.carry((*heads, blocks.V, blocks.bk))
        bounds = blocks.queries_seeing(j)
        start = (d_q, d_k, d_v, d_bias, d_parameter)
        d_q, d_k, d_v, d_bias, d_parameter = _loop(bounds, query_block, start)
        return (d_q, d_bias, d_parameter), (d_k, d_v)

    d_q = blocks.carry(blocks.q.shape)
    d_bias = None if bias is None else blocks.carry(blocks.bias.shape)
    d_parameter = blocks.carry(terms[0].shape) if terms else None
    (d_q, d_bias, d_parameter), (d_k, d_v) = lax.scan(
        key_block, (d_q, d_bias, d_parameter), jnp.arange(blocks.nk, dtype=jnp.int32)
    )

    def out(x, like):
        return x.astype(like.dtype) if cast else x

    def join(x):
        """[nk, *B, G, K, bk] -> [*B, S, G, K]."""
        x = jnp.moveaxis(x, (0, -1), (-4, -3))
        return lax.collapse(x, -4, -2)[..., : blocks.S, :, :]

    d_scale = out(jnp.sum(d_q * blocks.q.astype(blocks.dtype)), scale)
    d_query = out(blocks.unrows(d_q * blocks.scale), query)
    d_key = out(join(d_k) * blocks.scale, key)
    d_value = out(join(d_v), value)
    if bias is not None:
        d_bias = lax.collapse(d_bias, -4, -2)
        d_bias = d_bias[tuple(slice(0, size) for size in bias.shape)]
        d_bias = out(d_bias, bias)
    d_terms = (out(d_parameter, terms[0]), None, None) if terms else ()
    return d_query, d_key, d_value, d_bias, None, d_scale, None, *d_terms


def _pull_back(blocks, d_term, i, j):
    """The gradient of the relative term's parameter from that of its block."""
    term, pull = jax.vjp(lambda parameter: blocks.term(parameter, i, j), blocks.terms[0])
    return pull(_sum_to(d_term, term.shape))[0].astype(blocks.dtype)


def _sum_to(x, shape):
    """x summed over the axes that have size 1 in shape."""
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and x.shape[i] != 1)
    return jnp.sum(x, axes, keepdims=True) if axes else x


stream.defvjp(_stream_forward, _stream_backward)

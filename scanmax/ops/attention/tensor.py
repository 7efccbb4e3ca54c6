"""Third-order attention: every query weighs pairs of tokens; exact, by blocks of pairs."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    platform,
    require,
    vary_like,
    vary_together,
)
from scanmax.ops.softmax.softmax import divide

FORMS = (None, "parallel", "chunked")
# form=None: up to this many logits per head the whole tensor costs what streaming does.
PARALLEL_UP_TO = 64**3
# Logits in one block over batch and heads; see ops.attention.
BLOCK_LOGITS = {"cpu": 2**18}
BLOCK_LOGITS_ELSEWHERE = 2**24


@op()
def khatri_rao(left: Float[Array, "*B N D"], right: Float[Array, "*B M D"]):
    """Column-wise Kronecker product: every row of one times every row of the other.

        y[n M + m, d] = left[n, d] right[m, d]

    Args:
      left: N rows.
      right: M rows of the same width, and the same batch axes.

    Returns:
      [*B, N M, D]; the row of `right` changes fastest.

    Raises:
      ValueError: shapes that differ in more than the number of rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.khatri_rao(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [5.0, 6.0]]))
      Array([[ 3.,  8.],
             [ 5., 12.]], dtype=float32)

    Reference: tensor-attention
    """
    check_rank(2, left=left, right=right)
    expected = (*left.shape[:-2], right.shape[-2], left.shape[-1])
    check_shape("right", right, expected, "[*B, M, D] beside left")
    return lax.collapse(left[..., :, None, :] * right[..., None, :, :], -3, -1)


@op("is_causal", "form", "chunk_size", "precision", forward_mode="parallel")
def tensor_attention(
    query: Float[Array, "*B T H K"],
    first_key: Float[Array, "*B S H K"],
    second_key: Float[Array, "*B S H K"],
    first_value: Float[Array, "*B S H V"],
    second_value: Float[Array, "*B S H V"],
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    form: str | None = None,
    chunk_size: int | tuple[int, int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Third-order attention: softmax over all pairs of tokens, values multiplied entrywise.

        P[t, j, k] = softmax over (j, k) of scale sum_d q[t, d] k1[j, d] k2[k, d]
        y[t] = sum_jk P[t, j, k] v1[j] * v2[k]

    With Khatri-Rao products K = khatri_rao(k1, k2) and V = khatri_rao(v1, v2), [S^2, .], it is
    softmax(scale q K^T) V. Query t reads the pair (j, k) where it may read both j and k.

    Args:
      query: [*B, T, H, K].
      first_key: the keys of the pairs' first tokens.
      second_key: those of the second.
      first_value: the values of the first.
      second_value: those of the second.
      mask: bool, True = may be read, broadcasts to [*B, H, T, S]; a pair needs both its tokens.
        Keys that it hides from every query through an axis T of size 1 may be NaN.
      scale: factor of the logits, may be traced; None is 1 / K.
      is_causal: query t reads pairs of tokens up to t.
      form: "parallel" makes all T S^2 weights. "chunked" streams over blocks of pairs, keeps the
        output and two numbers per row, skips blocks that causality empties, and computes weights
        again for the gradient: memory linear in T and S, T S^2 (K + V) sums. None: "parallel" while
        T S^2 <= 64^3, else "chunked".
      chunk_size: the largest block of the chunked form: one integer, or (queries, first tokens,
        second tokens). None picks it by batch and heads.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of first_value; 0 for a query that may read nothing.

    Raises:
      ValueError: an array of the wrong shape, an unknown form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([0.0, 1.0]).reshape(2, 1, 1)
      >>> ops.tensor_attention(0 * x, x, x, x, x)[:, 0, 0]  # the mean of 0, 0, 0 and 1
      Array([0.25, 0.25], dtype=float32)

    Reference: tensor-attention
    """
    check_choice("form", form, FORMS)
    keys, values = (first_key, second_key), (first_value, second_value)
    mask = _check(query, keys, values, mask)
    *batch, T, H, _ = query.shape
    S = first_key.shape[-3]
    chunks = _chunks(chunk_size, T, S, math.prod(batch) * H)
    if form is None:
        form = "parallel" if T * S * S <= PARALLEL_UP_TO else "chunked"
    dtype = accumulator_dtype(query, *keys, *values)
    arrays = _head_first(query, keys, values, mask, scale, dtype)
    if form == "parallel" or not T * S:
        weights = _weights(*arrays[:3], mask, is_causal, precision)  # [*B, H, T, S, S]
        y = jnp.einsum("...tjk,...kv->...tjv", weights, arrays[4], precision=precision)
        y = jnp.sum(y * arrays[3][..., None, :, :], -2)
    else:
        plan = _Plan(is_causal, chunks, precision)
        *arrays, mask = vary_together(*arrays, mask)
        y = _stream(plan, *arrays, mask)
    return jnp.moveaxis(y, -3, -2).astype(first_value.dtype)


@op("is_causal", "precision")
def tensor_attention_weights(
    query: Float[Array, "*B T H K"],
    first_key: Float[Array, "*B S H K"],
    second_key: Float[Array, "*B S H K"],
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    precision=None,
) -> Float[Array, "*B H T S S"]:
    """The weights that `tensor_attention` gives to pairs of tokens, for small S.

        P[t, j, k] = softmax over (j, k) of scale sum_d q[t, d] k1[j, d] k2[k, d]

    Args:
      query: [*B, T, H, K].
      first_key: the keys of the pairs' first tokens.
      second_key: those of the second.
      mask: as in `tensor_attention`.
      scale: factor of the logits; None is 1 / K.
      is_causal: query t reads pairs of tokens up to t.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S, S] in the dtype of query; each [S, S] sums to one, or to 0 where nothing may be
      read.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 1, 1))
      >>> ops.tensor_attention_weights(x, x, x, is_causal=True)[0, 0]
      Array([[1., 0.],
             [0., 0.]], dtype=float32)

    Reference: tensor-attention
    """
    mask = _check(query, (first_key, second_key), (), mask)
    dtype = accumulator_dtype(query, first_key, second_key)
    arrays = _head_first(query, (first_key, second_key), (), mask, scale, dtype)
    return _weights(*arrays, mask, is_causal, precision).astype(query.dtype)


def _check(query, keys, values, mask):
    """Refuses what does not fit; returns the mask at full rank."""
    check_rank(3, query=query, first_key=keys[0])
    *batch, T, H, K = query.shape
    S = keys[0].shape[-3]
    for name, key in zip(("first_key", "second_key"), keys):
        check_shape(name, key, (*batch, S, H, K), "[*B, S, H, K]")
    for name, value in zip(("first_value", "second_value"), values):
        check_rank(3, **{name: value})
        check_shape(name, value, (*batch, S, H, values[0].shape[-1]), "[*B, S, H, V]")
    if mask is None:
        return None
    require(mask.dtype == bool, f"mask has dtype {mask.dtype}; expected bool, True = may be read.")
    full = (*batch, H, T, S)
    shape = (1,) * (len(full) - mask.ndim) + mask.shape
    fits = len(shape) == len(full) and all(a in (1, b) for a, b in zip(shape, full))
    require(fits, f"mask has shape {mask.shape}; expected to broadcast to [*B, H, T, S] = {full}.")
    return mask.reshape(shape)


def _head_first(query, keys, values, mask, scale, dtype):
    """Scaled queries, keys and values as [*B, H, T, .]; what no query may read becomes zero."""
    scale = 1 / query.shape[-1] if scale is None else scale
    scale = jnp.asarray(scale, dtype)
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    others = [*keys, *values]
    if mask is not None and mask.shape[-2] == 1 and mask.shape[-1] == keys[0].shape[-3]:
        seen = jnp.any(mask, (-3, -2))[..., None, None]  # [*B, S, 1, 1]
        others = [jnp.where(seen, x, jnp.zeros_like(x)) for x in others]
    arrays = [jnp.moveaxis(x, -2, -3).astype(dtype) for x in (query, *others)]
    return [arrays[0] * scale, *arrays[1:]]


def _weights(q, k1, k2, mask, is_causal, precision):
    """Softmax over pairs of the whole tensor, [*B, H, T, S, S]."""
    T, S = q.shape[-2], k1.shape[-2]
    left = q[..., :, None, :] * k1[..., None, :, :]
    logits = jnp.einsum("...tjd,...kd->...tjk", left, k2, precision=precision)
    allowed = mask
    if is_causal:
        past = jnp.arange(S)[None] <= jnp.arange(T)[:, None]
        past = past.reshape((1,) * (q.ndim - 2) + past.shape)
        allowed = past if mask is None else mask & past
    if allowed is not None:
        allowed = allowed[..., :, None] & allowed[..., None, :]
        logits = jnp.where(allowed, logits, -jnp.inf)
    level = lax.stop_gradient(jnp.max(logits, (-2, -1), keepdims=True, initial=-jnp.inf))
    scores = jnp.exp(logits - jnp.where(level == -jnp.inf, jnp.zeros_like(level), level))
    return divide(scores, jnp.sum(scores, (-2, -1), keepdims=True))


def _chunks(chunk_size, T, S, rows):
    """Block sizes (queries, first tokens, second tokens), evened out over the lengths."""
    if chunk_size is None:
        logits = BLOCK_LOGITS.get(platform(), BLOCK_LOGITS_ELSEWHERE) // max(rows, 1)
        exponent = max(logits.bit_length() - 1, 12)
        second = min(2 ** -(-exponent // 2), max(S, 1))
        first = min(2 ** (exponent // 4), max(S, 1))
        chunks = max(2**exponent // (first * second), 1), first, second
    else:
        chunks = chunk_size if isinstance(chunk_size, tuple) else (chunk_size,) * 3
        require(
            len(chunks) == 3 and min(chunks) >= 1,
            f"chunk_size={chunk_size}; expected a positive integer or three of them.",
        )
    return tuple(_even(length, largest) for length, largest in zip((T, S, S), chunks))


def _even(length, largest):
    """The block size that covers length in as few blocks with the least padding."""
    return max(-(-length // -(-length // largest)), 1) if length else 1


# The chunked form. Arrays are head-first, and padded to whole blocks.


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The static part of a call."""

    is_causal: bool
    chunks: tuple[int, int, int]
    precision: object


class _Triples:
    """The arrays of one call, cut into blocks: what both passes share."""

    def __init__(self, plan, q, k1, k2, v1, v2, mask):
        self.plan = plan
        self.lead, self.T, self.S = q.shape[:-2], q.shape[-2], k1.shape[-2]
        self.bt, self.bj, self.bk = plan.chunks
        self.nt, self.nj, self.nk = (
            -(-length // block) for length, block in zip((self.T, self.S, self.S), plan.chunks)
        )
        self.q = _pad(q, self.nt * self.bt)
        self.k1, self.v1 = (_pad(x, self.nj * self.bj) for x in (k1, v1))
        self.k2, self.v2 = (_pad(x, self.nk * self.bk) for x in (k2, v2))
        self.mask, self.like = mask, (q, k1, k2, v1, v2)

    def pairs(self, i):
        """How many blocks of pairs query block i reads, and the two indices of the p-th."""
        nj, nk = jnp.int32(self.nj), jnp.int32(self.nk)
        if self.plan.is_causal:
            last = (i + 1) * self.bt - 1
            nj = jnp.minimum(last // self.bj + 1, nj)
            nk = jnp.minimum(last // self.bk + 1, nk)
        return nj * nk, lambda p: (p // nk, p % nk)

    def dot(self, subscripts, x, y):
        return jnp.einsum(subscripts, x, y, precision=self.plan.precision)

    def product(self, rows, columns):
        """rows [*L, t, d] * columns [*L, j, d] as [*L, t j, d]."""
        return lax.collapse(rows[..., :, None, :] * columns[..., None, :, :], -3, -1)

    def logits(self, left, i, j, k):
        """The block's logits [*L, t, j, k], -inf where masked, of the products q * k1."""
        k2 = _block(self.k2, k, self.bk)
        logits = self.dot("...rd,...kd->...rk", left, k2)
        logits = logits.reshape(*self.lead, self.bt, self.bj, self.bk)
        first = self.allowed(i, j, self.bj, self.nj)
        second = self.allowed(i, k, self.bk, self.nk)
        if first is not None:
            logits = jnp.where(first[..., :, None], logits, -jnp.inf)
        if second is not None:
            logits = jnp.where(second[..., None, :], logits, -jnp.inf)
        return logits

    def allowed(self, i, j, size, blocks):
        """Which tokens of block j the queries of block i may read, [*L or 1, t or 1, size]."""
        ones = (1,) * len(self.lead)
        row = i * self.bt + lax.broadcasted_iota(jnp.int32, (*ones, self.bt, 1), len(ones))
        column = j * size + lax.broadcasted_iota(jnp.int32, (*ones, 1, size), len(ones) + 1)
        conditions = []
        if blocks * size > self.S:
            conditions.append(column < self.S)
        if self.plan.is_causal:
            conditions.append(column <= row)
        if self.mask is not None:
            mask = self.mask
            if mask.shape[-2] > 1:
                mask = _block(_pad(mask, self.nt * self.bt), i, self.bt)
            if mask.shape[-1] > 1:
                mask = _pad(mask, blocks * size, -1)
                mask = lax.dynamic_slice_in_dim(mask, j * size, size, mask.ndim - 1)
            conditions.append(mask)
        return functools.reduce(jnp.logical_and, conditions) if conditions else None

    def carry(self, shape, fill=0.0):
        return vary_like(jnp.full(shape, fill, self.q.dtype), *self.like)


def _pad(x, size, axis=-2):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, padding) if padding[axis][1] else x


def _block(x, i, size):
    return lax.dynamic_slice_in_dim(x, i * size, size, axis=x.ndim - 2)


def _add_to_block(x, update, i, size):
    new = _block(x, i, size) + update
    return lax.dynamic_update_slice_in_dim(x, new, i * size, axis=x.ndim - 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stream(plan, q, k1, k2, v1, v2, mask):
    """Third-order attention by blocks, [*B, H, T, V]."""
    return _forward(plan, q, k1, k2, v1, v2, mask)[0]


def _forward(plan, *arrays):
    cut = _Triples(plan, *arrays)
    rows, width = (*cut.lead, cut.bt), cut.v1.shape[-1]

    def query_block(i):
        q = _block(cut.q, i, cut.bt)
        count, indices = cut.pairs(i)

        def pair_block(p, carry):
            level, total, y = carry
            j, k = indices(p)
            logits = cut.logits(cut.product(q, _block(cut.k1, j, cut.bj)), i, j, k)
            new = jnp.maximum(level, jnp.max(logits, (-2, -1)))
            finite = jnp.where(new == -jnp.inf, jnp.zeros_like(new), new)
            factor = jnp.exp(level - finite)
            scores = jnp.exp(logits - finite[..., None, None])
            total = total * factor + jnp.sum(scores, (-2, -1))
            flat = lax.collapse(scores, -3, -1)
            read = cut.dot("...rk,...kv->...rv", flat, _block(cut.v2, k, cut.bk))
            read = read.reshape(*cut.lead, cut.bt, cut.bj, width)
            read = jnp.sum(read * _block(cut.v1, j, cut.bj)[..., None, :, :], -2)
            return new, total, y * factor[..., None] + read

        start = (cut.carry(rows, -jnp.inf), cut.carry(rows), cut.carry((*rows, width)))
        level, total, y = lax.fori_loop(jnp.int32(0), count, pair_block, start)
        level = jnp.where(level == -jnp.inf, jnp.zeros_like(level), level)
        inverse = divide(jnp.ones_like(total), total)
        return y * inverse[..., None], level, inverse

    y, level, inverse = lax.map(query_block, jnp.arange(cut.nt, dtype=jnp.int32))
    y = lax.collapse(jnp.moveaxis(y, 0, -3), -3, -1)[..., : cut.T, :]
    return y, level, inverse


def _stream_forward(plan, *arrays):
    y, level, inverse = _forward(plan, *arrays)
    return y, (arrays, y, level, inverse)


def _stream_backward(plan, residuals, d_y):
    arrays, y, level, inverse = residuals
    cut = _Triples(plan, *arrays)
    # sum over pairs of weight and its gradient: what the normalisation takes off
    drop = _pad(jnp.sum(d_y * y, -1, keepdims=True), cut.nt * cut.bt)
    d_y = _pad(d_y, cut.nt * cut.bt)
    width, value_width = cut.q.shape[-1], cut.v1.shape[-1]

    def query_block(carry, inputs):
        i, level, inverse = inputs
        q, d_out = _block(cut.q, i, cut.bt), _block(d_y, i, cut.bt)
        off = _block(drop, i, cut.bt)[..., None]
        count, indices = cut.pairs(i)

        def pair_block(p, carry):
            d_q, d_k1, d_k2, d_v1, d_v2 = carry
            j, k = indices(p)
            k1, v1 = _block(cut.k1, j, cut.bj), _block(cut.v1, j, cut.bj)
            k2, v2 = _block(cut.k2, k, cut.bk), _block(cut.v2, k, cut.bk)
            left, d_left = cut.product(q, k1), cut.product(d_out, v1)
            logits = cut.logits(left, i, j, k)
            weights = jnp.exp(logits - level[..., None, None]) * inverse[..., None, None]
            d_weights = cut.dot("...rv,...kv->...rk", d_left, v2).reshape(weights.shape)
            d_logits = weights * (d_weights - off)
            weights, d_logits = (lax.collapse(x, -3, -1) for x in (weights, d_logits))
            d_k2 = _add_to_block(d_k2, cut.dot("...rk,...rd->...kd", d_logits, left), k, cut.bk)
            d_v2 = _add_to_block(d_v2, cut.dot("...rk,...rv->...kv", weights, d_left), k, cut.bk)
            back = cut.dot("...rk,...kd->...rd", d_logits, k2)
            back = back.reshape(*cut.lead, cut.bt, cut.bj, width)
            read = cut.dot("...rk,...kv->...rv", weights, v2)
            read = read.reshape(*cut.lead, cut.bt, cut.bj, value_width)
            d_q = d_q + jnp.sum(back * k1[..., None, :, :], -2)
            d_k1 = _add_to_block(d_k1, jnp.sum(back * q[..., :, None, :], -3), j, cut.bj)
            d_v1 = _add_to_block(d_v1, jnp.sum(read * d_out[..., :, None, :], -3), j, cut.bj)
            return d_q, d_k1, d_k2, d_v1, d_v2

        start = (cut.carry((*cut.lead, cut.bt, width)), *carry)
        d_q, *carry = lax.fori_loop(jnp.int32(0), count, pair_block, start)
        return tuple(carry), d_q

    start = tuple(cut.carry(x.shape) for x in (cut.k1, cut.k2, cut.v1, cut.v2))
    blocks = jnp.arange(cut.nt, dtype=jnp.int32)
    others, d_q = lax.scan(query_block, start, (blocks, level, inverse))
    d_q = lax.collapse(jnp.moveaxis(d_q, 0, -3), -3, -1)[..., : cut.T, :]
    return (d_q, *(x[..., : cut.S, :] for x in others), None)


_stream.defvjp(_stream_forward, _stream_backward)

"""Attention by the whole matrix of weights, for any normalizer.

Arguments are checked already: arrays [*B, T, H, K] and [*B, S, G, K], bias and mask of full rank.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention.normalizer import Softmax, row_scores
from scanmax.ops.attention.streaming import visible_keys
from scanmax.ops.contract import accumulator_dtype, platform
from scanmax.ops.keeping import kept, recomputed
from scanmax.ops.softmax.softmax import divide


def _per_key_head(x, groups):
    """[*B, H, T, .] -> [*B, G, R T, .]: one product per key head. No data move."""
    *batch, heads, length, width = x.shape
    return x.reshape(*batch, groups, heads // groups * length, width)


def _masked_logits(
    normalizer,
    query,
    key,
    bias,
    mask,
    scale,
    window,
    lengths,
    cap,
    precision,
    transposed=False,
):
    """Logits [*B, H, T, S], -inf where masked, and the number of keys for the normalizer.

    Transposed, which takes as many heads of keys as of queries, they are [*B, H, S, T].
    """
    *batch, T, H, _ = query.shape
    S, G = key.shape[-3:-1]
    dtype = accumulator_dtype(query)
    # heads first, so that no product has to transpose the matrix
    logits = jnp.einsum(
        "...gtk,...gsk->...gst" if transposed else "...gtk,...gsk->...gts",
        _per_key_head(jnp.moveaxis(query, -3, -2), G),
        jnp.moveaxis(key, -3, -2),
        precision=precision,
        preferred_element_type=dtype,
    ).reshape(*batch, H, *((S, T) if transposed else (T, S)))
    logits = logits * scale.astype(dtype)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    ones = (1,) * (len(batch) + 1)
    row = jnp.arange(T, dtype=jnp.int32).reshape(*ones, T, 1)
    column = jnp.arange(S, dtype=jnp.int32).reshape(*ones, 1, S)
    if transposed:
        row, column, bias, mask = (x if x is None else x.mT for x in (row, column, bias, mask))
    if bias is not None:
        logits = logits + bias.astype(dtype)
    left, right = window
    num_keys = None
    if normalizer.counts_keys:
        num_keys = visible_keys(query, S, window, lengths, mask, dtype)
    if right is not None:
        logits = jnp.where(column <= row + right, logits, -jnp.inf)
    if left is not None:
        logits = jnp.where(column >= row - left, logits, -jnp.inf)
    if lengths is not None:
        lengths = lengths.reshape(*lengths.shape, 1, 1, 1)
        logits = jnp.where(column < lengths, logits, -jnp.inf)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    return logits, num_keys


def _relative_term(relative, terms, logits):
    """The term of all pairs, [H, T, S] or of one head, at the logits' rank."""
    parameter, *places = terms
    rows, columns = (jnp.arange(size, dtype=jnp.int32) for size in logits.shape[-2:])
    term = relative.block(parameter.astype(logits.dtype), *places, rows, columns)
    return term.reshape((1,) * (logits.ndim - 3) + term.shape)


def _scores(
    normalizer,
    query,
    key,
    bias,
    mask,
    scale,
    window,
    lengths,
    cap,
    precision,
    relative=None,
    terms=(),
):
    """What weighs the values, [*B, H, T, S], and what divides a row, [*B, H, T, 1] or None."""
    logits, num_keys = _masked_logits(
        normalizer, query, key, bias, mask, scale, window, lengths, cap, precision
    )
    if relative is not None and relative.placement == "logits":
        logits = logits + _relative_term(relative, terms, logits)
    scores, total = row_scores(normalizer, logits, num_keys)
    if relative is not None and relative.placement == "weights":
        scores = scores * _relative_term(relative, terms, logits)
    return scores, total


def weights_of(normalizer, query, key, *others):
    """The weights of all pairs, [*B, H, T, S] in accumulator precision; others as of `_scores`."""
    scores, total = _scores(normalizer, query, key, *others)
    return scores if total is None else divide(scores, total)


def _serves_half(normalizer, value, relative):
    """Whether `_half_scores` does: a softmax, of values of half precision."""
    half = value.dtype.itemsize < accumulator_dtype(value).itemsize
    return half and isinstance(normalizer, Softmax) and relative is None


def _half_scores(normalizer, query, key, bias, mask, *others, dtype):
    """As `_scores`, the scores in `dtype`: the only matrix that stands in memory.

    Written out, logits in float32 take twice what the products read. Each consumer of a product
    that has the row maxima makes its own scores of it; on a TPU, whose step waits for memory and
    not for products, the maxima come from a product of their own that writes nothing else. It is
    transposed: the compiler would find two equal ones, and write one out.
    """
    arrays = (query, key, bias, mask)
    logits, _ = _masked_logits(normalizer, *arrays, *others)
    floor = jnp.finfo(logits.dtype).min
    if platform() == "tpu" and key.shape[-2] == query.shape[-2]:
        # window, lengths, cap and precision are no arrays that a gradient reaches
        constants = (x if x is None else lax.stop_gradient(x) for x in (*arrays, others[0]))
        other, _ = _masked_logits(normalizer, *constants, *others[1:], transposed=True)
        level = jnp.max(other, -2, initial=floor)[..., None]
    else:
        level = jnp.max(lax.stop_gradient(logits), -1, keepdims=True, initial=floor)
    null = normalizer.null_logit
    if null is not None:
        level = jnp.maximum(level, null)
    scores, total = _exponentials(logits, level, dtype)
    return scores, total if null is None else total + jnp.exp(null - level)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _exponentials(logits, level, dtype):
    """exp(logits - level) in `dtype`, and the sums of its rows before they are rounded."""
    scores = jnp.exp(logits - level)
    return scores.astype(dtype), jnp.sum(scores, -1, keepdims=True)


@_exponentials.defjvp
def _exponentials_jvp(dtype, primals, tangents):
    # What the backward pass keeps are the rounded scores, and what it writes out, once, is the
    # gradient of the logits as the products with queries and keys read it.
    scores, total = map(kept, _exponentials(*primals, dtype))
    slope = lax.optimization_barrier(tangents[0].astype(dtype))

    @recomputed
    def changes(scores, slope):
        change = scores.astype(total.dtype) * slope.astype(total.dtype)
        return change.astype(dtype), jnp.sum(change, -1, keepdims=True)

    return (scores, total), changes(scores, slope)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _half_quotient(sums, total, dtype):
    """sums / total in `dtype`; the backward pass keeps the quotient, not the sums."""
    return lax.optimization_barrier((sums / total).astype(dtype))


@_half_quotient.defjvp
def _half_quotient_jvp(dtype, primals, tangents):
    y = _half_quotient(*primals, dtype)

    @recomputed
    def change(y, total, d_sums, d_total):
        return ((d_sums - y.astype(total.dtype) * d_total) / total).astype(dtype)

    return y, change(y, primals[1], *tangents)


def attend(
    normalizer,
    query,
    key,
    value,
    bias,
    mask,
    scale,
    window,
    lengths,
    cap,
    precision,
    relative=None,
    terms=(),
):
    """The parallel form: [*B, T, H, V] in the dtype of value."""
    arguments = (normalizer, query, key, bias, mask, scale, window, lengths, cap, precision)
    half = _serves_half(normalizer, value, relative)
    if half:
        scores, total = _half_scores(*arguments, dtype=value.dtype)
    else:
        scores, total = _scores(*arguments, relative, terms)
    y = jnp.einsum(
        "...gts,...gsv->...gtv",
        _per_key_head(scores.astype(value.dtype), key.shape[-2]),
        jnp.moveaxis(value, -3, -2),
        precision=precision,
        preferred_element_type=accumulator_dtype(query),
    ).reshape(*scores.shape[:-1], value.shape[-1])
    if total is not None:
        # an empty row is 0 already; choosing among totals is cheaper than among outputs
        total = jnp.where(total == 0, jnp.ones_like(total), total)
        if half:
            return _half_quotient(*(jnp.moveaxis(x, -3, -2) for x in (y, total)), value.dtype)
        y = y / total
    return jnp.moveaxis(y, -3, -2).astype(value.dtype)

"""Attention by the whole matrix of weights, for any normalizer.

Arguments are checked already: arrays [*B, T, H, K] and [*B, S, G, K], bias and mask of full rank.
"""

import jax.numpy as jnp

from scanmax.ops.attention.normalizer import row_scores
from scanmax.ops.attention.streaming import visible_keys
from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.softmax.softmax import divide


def _per_key_head(x, groups):
    """[*B, H, T, .] -> [*B, G, R T, .]: one product per key head. No data move."""
    *batch, heads, length, width = x.shape
    return x.reshape(*batch, groups, heads // groups * length, width)


def _masked_logits(normalizer, query, key, bias, mask, scale, window, lengths, cap, precision):
    """Logits [*B, H, T, S], -inf where masked, and the number of keys for the normalizer."""
    *batch, T, H, _ = query.shape
    S, G = key.shape[-3:-1]
    dtype = accumulator_dtype(query)
    # heads first, so that no product has to transpose the matrix
    logits = jnp.einsum(
        "...gtk,...gsk->...gts",
        _per_key_head(jnp.moveaxis(query, -3, -2), G),
        jnp.moveaxis(key, -3, -2),
        precision=precision,
        preferred_element_type=dtype,
    ).reshape(*batch, H, T, S)
    logits = logits * scale.astype(dtype)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias.astype(dtype)
    ones = (1,) * (len(batch) + 1)
    row = jnp.arange(T, dtype=jnp.int32).reshape(*ones, T, 1)
    column = jnp.arange(S, dtype=jnp.int32).reshape(*ones, 1, S)
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


def attend(
    normalizer, query, key, value, bias, mask, scale, window, lengths, cap, precision, *term
):
    """The parallel form: [*B, T, H, V] in the dtype of value."""
    scores, total = _scores(
        normalizer, query, key, bias, mask, scale, window, lengths, cap, precision, *term
    )
    y = jnp.einsum(
        "...gts,...gsv->...gtv",
        _per_key_head(scores.astype(value.dtype), key.shape[-2]),
        jnp.moveaxis(value, -3, -2),
        precision=precision,
        preferred_element_type=scores.dtype,
    ).reshape(*scores.shape[:-1], value.shape[-1])
    if total is not None:
        # an empty row is 0 already; choosing among totals is cheaper than among outputs
        y = y / jnp.where(total == 0, jnp.ones_like(total), total)
    return jnp.moveaxis(y, -3, -2).astype(value.dtype)

"""Dot-product attention, as its equations."""

import jax.numpy as jnp

from scanmax.ops.attention import normalizer as kinds
from scanmax.ops.reference.segments import segment_runs
from scanmax.ops.reference.softmax.positive import (
    relu_softmax,
    reweight_power,
    softmax_one,
    softplus_softmax,
    squared_relu_softmax,
    two_quad,
)
from scanmax.ops.reference.softmax.softmax import sigmoid_weights, softmax, stablemax
from scanmax.ops.reference.softmax.sparse import entmax15, sparsemax


def _weights(normalizer, logits, where):
    """P_s = score(l_s) / sum_r score(l_r), or score(l_s); n counts the keys in `where`."""
    num_keys = jnp.maximum(jnp.sum(where, -1, keepdims=True), 1).astype(logits.dtype)
    if isinstance(normalizer, str):
        normalizer = kinds.NORMALIZERS[normalizer]
    given, row = normalizer, (logits, -1, where)
    match type(normalizer):
        case kinds.Softmax | kinds.TwoPassSoftmax:
            return softmax(*row)
        case kinds.SoftmaxOne:
            return softmax_one(*row, null=given.null)
        case kinds.Stablemax:
            return stablemax(*row)
        case kinds.Sigmoid:
            bias = 0.0 if given.bias is None else given.bias
            shift = -jnp.log(num_keys) if given.bias is None else 0.0
            return sigmoid_weights(logits + shift, -1, where, bias=bias)
        case kinds.ReluSoftmax:
            return relu_softmax(*row, eps=given.eps)
        case kinds.SquaredRelu:
            return squared_relu_softmax(*row, eps=given.eps)
        case kinds.TwoQuad:
            return two_quad(*row, shift=given.shift, eps=given.eps)
        case kinds.Sparsemax:
            return sparsemax(*row)
        case kinds.Entmax15:
            return entmax15(*row)
        case kinds.Softplus:
            return softplus_softmax(*row, dim=given.dim, length_scale=given.length_scale)
        case kinds.SoftplusReweighted:
            first = softplus_softmax(*row, dim=given.dim, length_scale=given.length_scale)
            return reweight_power(first, -1, where, power=given.power, offset=given.offset)
    return _weights_of_score(normalizer, logits, where, num_keys)


def _weights_of_score(normalizer, logits, where, num_keys):
    """A user's normalizer, by its score."""
    level = jnp.zeros_like(logits)
    scores = jnp.where(where, normalizer.score(logits, level, num_keys), 0)
    if not normalizer.normalized:
        return scores
    total = jnp.sum(scores, -1, keepdims=True)
    if normalizer.null_logit is not None:
        null = jnp.full_like(total, normalizer.null_logit)
        total = total + normalizer.score(null, jnp.zeros_like(null), num_keys)
    return scores / jnp.where(total == 0, 1, total)


def _full_rank(x, rank):
    return jnp.reshape(x, (1,) * (rank - x.ndim) + x.shape)


def attention_matrix(
    query,
    key,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    segment_ids=None,
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """P = normalizer(cap tanh(scale q k^T / cap) + bias), where the masks allow."""
    *batch, T, H, K = query.shape
    S, G = key.shape[-3:-1]
    rank = len(batch) + 3
    key = jnp.repeat(key, H // G, axis=-2)
    scale = K**-0.5 if scale is None else scale
    logits = scale * jnp.einsum("...thk,...shk->...hts", query, key, precision=precision)
    if logits_soft_cap is not None:
        logits = logits_soft_cap * jnp.tanh(logits / logits_soft_cap)
    if bias is not None:
        logits = logits + _full_rank(bias, rank)

    t, s = jnp.arange(T)[:, None], jnp.arange(S)[None, :]
    left, right = (
        local_window_size
        if isinstance(local_window_size, tuple)
        else (
            local_window_size,
            local_window_size,
        )
    )
    where = jnp.ones((T, S), bool)
    where = where & (s <= t) if is_causal else where
    where = where & (s >= t - left) if left is not None else where
    where = where & (s <= t + right) if right is not None else where
    where = jnp.broadcast_to(_full_rank(where, rank), logits.shape)
    if mask is not None:
        where = where & _full_rank(mask, rank)
    if query_seq_lengths is not None:
        length = query_seq_lengths[..., None, None, None].astype(t.dtype)
        where = where & (_full_rank(t, rank) < length)
    if key_value_seq_lengths is not None:
        length = key_value_seq_lengths[..., None, None, None].astype(s.dtype)
        where = where & (_full_rank(s, rank) < length)
    if segment_ids is not None:
        runs = segment_runs(segment_ids)
        where = where & (runs[..., None, :, None] == runs[..., None, None, :])
    if isinstance(normalizer, str):
        normalizer = kinds.NORMALIZERS[normalizer]
    normalizer = normalizer.for_width(K)
    return _weights(normalizer, logits, where)


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    segment_ids=None,
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """y = P v."""
    weights = attention_matrix(
        query,
        key,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        segment_ids=segment_ids,
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)


def init_kv_cache(
    batch_shape, max_length, num_heads, key_dim, value_dim=None, *, dtype=jnp.float32
):
    """S_0 = (): no keys, no values."""
    value_dim = key_dim if value_dim is None else value_dim
    shape = (*batch_shape, 0, num_heads)
    return jnp.zeros((*shape, key_dim), dtype), jnp.zeros((*shape, value_dim), dtype)


def extend_kv_cache(state, key, value):
    """S_{t+n} = S_t, (k_{t+1}, v_{t+1}), ..., (k_{t+n}, v_{t+n})."""
    return tuple(jnp.concatenate([old, new], -3) for old, new in zip(state, (key, value)))


def attention_step(
    state,
    query,
    key,
    value,
    bias=None,
    mask=None,
    *,
    scale=None,
    normalizer="softmax",
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """S_t = S_{t-1}, (k_t, v_t);   y_t = attention(q_t, S_t)."""
    keys, values = extend_kv_cache(state, key[..., None, :, :], value[..., None, :, :])
    length = keys.shape[-3]
    bias, mask = (x if x is None else x[..., None, :length] for x in (bias, mask))
    left = local_window_size[0] if isinstance(local_window_size, tuple) else local_window_size
    if left is not None:
        near = jnp.arange(length)[None] >= length - 1 - left
        mask = near if mask is None else mask & _full_rank(near, mask.ndim)
    y = dot_product_attention(
        query[..., None, :, :],
        keys,
        values,
        bias,
        mask,
        scale=scale,
        normalizer=normalizer,
        logits_soft_cap=logits_soft_cap,
        precision=precision,
    )
    return y[..., 0, :, :], (keys, values)

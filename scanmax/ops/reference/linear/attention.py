"""Linear attention, one token at a time."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.linear.feature_maps import features
from scanmax.ops.reference.segments import in_one_segment


def linear_attention(
    query,
    key,
    value,
    *,
    log_decay=None,
    feature_map=None,
    normalize=False,
    is_causal=True,
    scale=None,
    segment_ids=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """S_t = exp(log_decay_t) S_{t-1} + phi(k_t) (x) v_t, y_t = S_t^T phi(q_t)."""
    if not is_causal:
        matrix = linear_attention_matrix(
            query,
            key,
            log_decay=_decay_per_head(log_decay, value),
            feature_map=feature_map,
            normalize=normalize,
            is_causal=False,
            scale=scale,
            segment_ids=segment_ids,
        )
        dtype = accumulator_dtype(matrix, value)
        y = jnp.einsum("...hij,...jhv->...ihv", matrix.astype(dtype), value.astype(dtype))
        return y.astype(value.dtype)
    dtype = accumulator_dtype(query, key, value, log_decay, initial_state)
    if initial_state is None:
        columns = value.shape[-1] + normalize
        width = features(key, feature_map).shape[-1]
        initial_state = jnp.zeros((*value.shape[:-3], value.shape[-2], width, columns), dtype)
    log_decay = _decay_per_head(log_decay, value)
    time = value.ndim - 3

    def token(carry, inputs):
        state, segment = carry
        q, k, v, a, segment_t = inputs
        state = jnp.where((segment_t == segment)[..., None, None, None], state, 0)
        y, state = linear_attention_step(
            state,
            q,
            k,
            v,
            log_decay=a,
            feature_map=feature_map,
            normalize=normalize,
            scale=scale,
        )
        return (state, segment_t), y

    if segment_ids is None:
        segment_ids = jnp.zeros(value.shape[:-2], jnp.int32)
    by_token = [jnp.moveaxis(x, time, 0) for x in (query, key, value, log_decay, segment_ids)]
    (state, _), y = lax.scan(token, (initial_state.astype(dtype), by_token[-1][0]), by_token)
    y = jnp.moveaxis(y, 0, time)
    return (y, state) if return_state else y


def linear_attention_step(
    state,
    query,
    key,
    value,
    *,
    log_decay=None,
    feature_map=None,
    normalize=False,
    scale=None,
    precision=None,
):
    """The equation for one token; with `normalize` the last column of S sums the weights."""
    dtype = accumulator_dtype(state, query, key, value, log_decay)
    heads = value.shape[-2]
    q, k = (_per_head(features(x, feature_map), heads).astype(dtype) for x in (query, key))
    v = value.astype(dtype)
    if normalize:
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
    decay = jnp.exp(_decay_per_head(log_decay, value).astype(dtype))
    decay = decay[..., None, None] if decay.ndim == state.ndim - 2 else decay[..., None]
    state = decay * state.astype(dtype) + k[..., :, None] * v[..., None, :]
    y = jnp.einsum("...k,...kv->...v", q, state)
    if normalize:
        y = jnp.where(
            y[..., -1:] == 0, 0, y[..., :-1] / jnp.where(y[..., -1:] == 0, 1, y[..., -1:])
        )
    y = y if scale is None else y * scale
    return y.astype(value.dtype), state


def linear_attention_matrix(
    query,
    key,
    *,
    log_decay=None,
    feature_map=None,
    normalize=False,
    is_causal=True,
    scale=None,
    segment_ids=None,
    precision=None,
):
    """M_ij = sum_n q_in k_jn exp(sum of log_decay_n over the tokens after j up to i)."""
    dtype = accumulator_dtype(query, key, log_decay)
    per_channel = log_decay is not None and log_decay.ndim == query.ndim
    heads = query.shape[-2] if log_decay is None else log_decay.shape[-2 if per_channel else -1]
    q, k = (_per_head(features(x, feature_map), heads).astype(dtype) for x in (query, key))
    a = jnp.zeros((*q.shape[:-1], 1), dtype) if log_decay is None else log_decay.astype(dtype)
    a = a if a.ndim == q.ndim else a[..., None]  # [*B, T, H, K or 1]
    i, j, t = jnp.ix_(*[jnp.arange(q.shape[-3])] * 3)
    past = (j < t) & (t <= i)
    future = (i <= t) & (t < j)
    between = past if is_causal else past | future
    sums = jnp.where(
        align(between, a[..., None, None, :, :, :], 2), a[..., None, None, :, :, :], 0
    ).sum(-3)
    weights = jnp.exp(sums) * q[..., :, None, :, :] * k[..., None, :, :, :]  # [*B, T, T, H, K]
    matrix = jnp.moveaxis(weights.sum(-1), -1, -3)
    if is_causal:
        matrix = jnp.tril(matrix)
    if segment_ids is not None:
        matrix = jnp.where(in_one_segment(segment_ids)[..., None, :, :], matrix, 0)
    if normalize:
        total = matrix.sum(-1, keepdims=True)
        matrix = jnp.where(total == 0, 0, matrix / jnp.where(total == 0, 1, total))
    matrix = matrix if scale is None else matrix * scale
    return matrix.astype(query.dtype)


def _per_head(x, heads):
    return jnp.repeat(x, heads // x.shape[-2], axis=-2)


def _decay_per_head(log_decay, value):
    return jnp.zeros(value.shape[:-1], value.dtype) if log_decay is None else log_decay

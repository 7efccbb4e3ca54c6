"""The delta rule, one token at a time."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype, align


def delta_rule(
    query,
    key,
    value,
    beta,
    *,
    log_decay=None,
    is_causal=True,
    scale=None,
    segment_ids=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t (x) v_t, y_t = S_t^T q_t."""
    if not is_causal:
        matrix = delta_rule_matrix(
            query,
            key,
            beta,
            log_decay=log_decay,
            is_causal=False,
            scale=scale,
            segment_ids=segment_ids,
        )
        dtype = accumulator_dtype(matrix, value)
        y = jnp.einsum("...hij,...jhv->...ihv", matrix.astype(dtype), value.astype(dtype))
        return y.astype(value.dtype)
    dtype = accumulator_dtype(query, key, value, beta, log_decay, initial_state)
    time = value.ndim - 3
    if initial_state is None:
        shape = (*value.shape[:time], value.shape[-2], key.shape[-1], value.shape[-1])
        initial_state = jnp.zeros(shape, dtype)
    log_decay = jnp.zeros(beta.shape, dtype) if log_decay is None else log_decay
    if segment_ids is None:
        segment_ids = jnp.zeros(value.shape[:-2], jnp.int32)

    def token(carry, inputs):
        state, segment = carry
        q, k, v, b, a, segment_t = inputs
        state = jnp.where((segment_t == segment)[..., None, None, None], state, 0)
        y, state = delta_rule_step(state, q, k, v, b, log_decay=a, scale=scale)
        return (state, segment_t), y

    tokens = (query, key, value, beta, log_decay, segment_ids)
    by_token = [jnp.moveaxis(x, time, 0) for x in tokens]
    (state, _), y = lax.scan(token, (initial_state.astype(dtype), by_token[-1][0]), by_token)
    y = jnp.moveaxis(y, 0, time)
    return (y, state) if return_state else y


def delta_rule_step(state, query, key, value, beta, *, log_decay=None, scale=None, precision=None):
    """The equation for one token."""
    dtype = accumulator_dtype(state, query, key, value, beta, log_decay)
    q, k, v, b = (x.astype(dtype) for x in (query, key, value, beta))
    b = b[..., None, None]
    kept = align(jnp.eye(k.shape[-1], dtype=dtype), state)
    kept = kept - b * k[..., :, None] * k[..., None, :]
    if log_decay is not None:
        kept = kept * jnp.exp(log_decay.astype(dtype))[..., None, None]
    state = kept @ state.astype(dtype) + b * k[..., :, None] * v[..., None, :]
    y = jnp.einsum("...k,...kv->...v", q, state)
    return (y if scale is None else y * scale).astype(value.dtype), state


def delta_rule_matrix(
    query,
    key,
    beta,
    *,
    log_decay=None,
    is_causal=True,
    scale=None,
    segment_ids=None,
    precision=None,
):
    """M_ij = q_i^T (prod_{t = j+1..i} a_t (I - beta_t k_t k_t^T)) k_j beta_j: read off unit values.

    Column j is what the op gives for the values that are 1 at token j and 0 elsewhere. On the other
    side of the diagonal stands the same matrix of the tokens in reverse.
    """
    if not is_causal:
        tokens = {"query": query, "key": key, "beta": beta, "log_decay": log_decay}
        tokens["segment_ids"] = segment_ids
        time = query.ndim - 3
        back = {n: x if x is None else jnp.flip(x, time) for n, x in tokens.items()}
        past, ahead = (delta_rule_matrix(**given, scale=scale) for given in (tokens, back))
        return jnp.tril(past) + jnp.triu(jnp.flip(ahead, (-2, -1)), 1)
    length = query.shape[-3]
    unit = jnp.eye(length, dtype=query.dtype)
    unit = align(unit[:, None], query)
    value = jnp.broadcast_to(unit, (*query.shape[:-1], length))  # [*B, T, H, T]
    y = delta_rule(
        query, key, value, beta, log_decay=log_decay, scale=scale, segment_ids=segment_ids
    )
    return jnp.swapaxes(y, -2, -3)

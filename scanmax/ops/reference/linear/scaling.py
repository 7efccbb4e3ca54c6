"""Scaling attention: logits over the number of tokens."""

import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.reference.linear.order import apply_matrix, by_token, pairs, seen, sums


def scaling_attention(
    query,
    key,
    value,
    *,
    is_causal=False,
    scale=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """y_i = sum_j w_ij v_j, w_ij = scale q_i . k_j / n_i."""
    if not is_causal:
        return apply_matrix(scaling_attention_matrix(query, key, scale=scale), value)

    def step(state, *token):
        return scaling_attention_step(state, *token, scale=scale)

    y, state = by_token(step, initial_state, query, key, value)
    return (y, state) if return_state else y


def scaling_attention_step(state, query, key, value, *, scale=None, precision=None):
    """y_t = scale / t q_t^T S_t, S_t = S_{t-1} + k_t v_t^T; t is the corner of the state."""
    dtype = accumulator_dtype(state, query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (x.astype(dtype) for x in (query, key, value))
    state = sums(state.astype(dtype), k, v)
    read = jnp.einsum("...hk,...hkv->...hv", q, state[..., :-1, :-1])
    return (scale * read / state[..., -1, -1:]).astype(value.dtype), state


def scaling_attention_matrix(query, key, *, is_causal=False, scale=None, precision=None):
    """w_ij = scale q_i . k_j / n_i."""
    dtype = accumulator_dtype(query, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * pairs(query.astype(dtype), key.astype(dtype))
    mask = seen(logits, is_causal)
    return (mask * logits / mask.sum(-1, keepdims=True)).astype(query.dtype)

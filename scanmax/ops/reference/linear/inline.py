"""Injective linear attention (InLine)."""

import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.reference.linear.feature_maps import features
from scanmax.ops.reference.linear.order import apply_matrix, by_token, pairs, seen, sums


def inline_attention(
    query,
    key,
    value,
    *,
    feature_map=None,
    average=True,
    is_causal=False,
    scale=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """y_i = sum_j w_ij v_j, w_ij = s_ij - mean_j(s_ij) + 1 / n_i."""
    options = {"feature_map": feature_map, "average": average, "scale": scale}
    if not is_causal:
        return apply_matrix(inline_attention_matrix(query, key, **options), value)

    def step(state, *token):
        return inline_attention_step(state, *token, **options)

    phi_k = features(key, feature_map)
    y, state = by_token(step, initial_state, query, key, value, width=phi_k.shape[-1])
    return (y, state) if return_state else y


def inline_attention_step(
    state, query, key, value, *, feature_map=None, average=True, scale=None, precision=None
):
    """y_t = s_t + (1 - z_t) mean_t(v), s_t = scale / t phi(q_t)^T S_t."""
    dtype = accumulator_dtype(state, query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (features(query, feature_map), features(key, feature_map), value)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    state = sums(state.astype(dtype), k, v)
    t = state[..., -1, -1:]
    scale = scale / t if average else scale
    z = scale * (q * state[..., :-1, -1]).sum(-1, keepdims=True)
    s = scale * jnp.einsum("...hk,...hkv->...hv", q, state[..., :-1, :-1])
    y = s + (1 - z) * state[..., -1, :-1] / t
    return y.astype(value.dtype), state


def inline_attention_matrix(
    query, key, *, feature_map=None, average=True, is_causal=False, scale=None, precision=None
):
    """w_ij = s_ij - mean_j(s_ij) + 1 / n_i."""
    dtype = accumulator_dtype(query, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k = (features(x, feature_map).astype(dtype) for x in (query, key))
    products = pairs(q, k)
    mask = seen(products, is_causal)
    n = mask.sum(-1, keepdims=True)
    s = mask * products * (scale / n if average else scale)
    mean = s.sum(-1, keepdims=True) / n
    return (mask * (s - mean + 1 / n)).astype(query.dtype)

"""Magnitude-aware linear attention."""

import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.reference.linear.feature_maps import features
from scanmax.ops.reference.linear.order import apply_matrix, by_token, pairs, seen, sums


def mala_attention(
    query,
    key,
    value,
    *,
    turned_query=None,
    turned_key=None,
    feature_map="elu",
    average=True,
    epsilon=1e-6,
    is_causal=False,
    scale=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """y_i = sum_j w_ij v_j, w_ij = (1 + 1 / z_i) s_ij - z_i / n_i."""
    options = {
        "feature_map": feature_map,
        "average": average,
        "epsilon": epsilon,
        "scale": scale,
    }
    if not is_causal:
        matrix = mala_attention_matrix(
            query, key, turned_query=turned_query, turned_key=turned_key, **options
        )
        return apply_matrix(matrix, value)

    def step(state, q, k, v, turned_q, turned_k):
        return mala_attention_step(
            state, q, k, v, turned_query=turned_q, turned_key=turned_k, **options
        )

    phi_k = features(key, feature_map)
    y, state = by_token(
        step, initial_state, query, key, value, turned_query, turned_key, width=phi_k.shape[-1]
    )
    return (y, state) if return_state else y


def mala_attention_step(
    state,
    query,
    key,
    value,
    *,
    turned_query=None,
    turned_key=None,
    feature_map="elu",
    average=True,
    epsilon=1e-6,
    scale=None,
    precision=None,
):
    """y_t = (1 + 1 / z_t) s_t - z_t mean_t(v), s_t = scale / t phi(q_t)^T S_t."""
    dtype = accumulator_dtype(state, query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k = (features(x, feature_map).astype(dtype) for x in (query, key))
    turned_q, turned_k = (q, k) if turned_query is None else (turned_query, turned_key)
    turned_q, turned_k, v = (x.astype(dtype) for x in (turned_q, turned_k, value))
    state = sums(state.astype(dtype), k, v, turned_k)
    t = state[..., -1, -1:]
    scale = scale / t if average else scale
    z = scale * (q * state[..., :-1, -1]).sum(-1, keepdims=True)
    s = scale * jnp.einsum("...hk,...hkv->...hv", turned_q, state[..., :-1, :-1])
    y = (1 + 1 / (z + epsilon)) * s - z * state[..., -1, :-1] / t
    return y.astype(value.dtype), state


def mala_attention_matrix(
    query,
    key,
    *,
    turned_query=None,
    turned_key=None,
    feature_map="elu",
    average=True,
    epsilon=1e-6,
    is_causal=False,
    scale=None,
    precision=None,
):
    """w_ij = (1 + 1 / z_i) s_ij - z_i / n_i, z_i the sum of s_ij without positions."""
    dtype = accumulator_dtype(query, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k = (features(x, feature_map).astype(dtype) for x in (query, key))
    turned_q, turned_k = (q, k) if turned_query is None else (turned_query, turned_key)
    products = pairs(q, k)
    mask = seen(products, is_causal)
    n = mask.sum(-1, keepdims=True)
    scale = scale / n if average else scale
    z = (mask * scale * products).sum(-1, keepdims=True)
    s = scale * pairs(turned_q.astype(dtype), turned_k.astype(dtype))
    return (mask * ((1 + 1 / (z + epsilon)) * s - z / n)).astype(query.dtype)

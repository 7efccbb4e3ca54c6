"""Rank-augmented linear attention."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.reference.linear.feature_maps import features
from scanmax.ops.reference.linear.order import apply_matrix, pairs


def rala_attention(
    query,
    key,
    value,
    gate=None,
    *,
    turned_query=None,
    turned_key=None,
    feature_map="elu",
    epsilon=1e-6,
    scale=None,
    precision=None,
):
    """y_i = gate_i * sum_j w_ij v_j."""
    matrix = rala_attention_matrix(
        query,
        key,
        turned_query=turned_query,
        turned_key=turned_key,
        feature_map=feature_map,
        epsilon=epsilon,
        scale=scale,
    )
    y = apply_matrix(matrix, value)
    return y if gate is None else y * gate


def rala_attention_matrix(
    query,
    key,
    *,
    turned_query=None,
    turned_key=None,
    feature_map="elu",
    epsilon=1e-6,
    scale=None,
    precision=None,
):
    """w_ij = s_ij / (sum_j s_ij + epsilon), s_ij = phi(q_i) . alpha_j phi(k_j) / T."""
    dtype = accumulator_dtype(query, key)
    T, K = query.shape[-3], query.shape[-1]
    q, k = (features(x, feature_map).astype(dtype) for x in (query, key))
    turned_q, turned_k = (q, k) if turned_query is None else (turned_query, turned_key)
    logits = jnp.einsum("...hk,...jhk->...hj", q.mean(-3), k)
    logits = logits * (K**-0.5 if scale is None else scale)
    alpha = T * jax.nn.softmax(logits)[..., None, :]  # [*B, H, 1, j]
    total = (alpha * pairs(q, k) / T).sum(-1, keepdims=True)
    s = alpha * pairs(turned_q.astype(dtype), turned_k.astype(dtype)) / T
    return (s / (total + epsilon)).astype(query.dtype)

"""Heads of two kinds, as their equations."""

import jax.numpy as jnp


def heterogeneous_attention_matrix(query, key, alpha, *, epsilon=1e-5, scale=None, precision=None):
    """P = alpha relu(l) / (sum relu(l) + eps) + (1 - alpha) l / T."""
    T, H, K = query.shape[-3:]
    scale = K**-0.5 if scale is None else scale
    logits = scale * jnp.einsum("...thk,...shk->...hts", query, key, precision=precision)
    positive = jnp.maximum(logits, 0)
    by_relu = positive / (jnp.sum(positive, -1, keepdims=True) + epsilon)
    alpha = jnp.broadcast_to(alpha, (T, H)).T[..., None]
    alpha = jnp.broadcast_to(alpha.reshape((1,) * (logits.ndim - 3) + alpha.shape), logits.shape)
    return alpha * by_relu + (1 - alpha) * logits / T


def heterogeneous_attention(query, key, value, alpha, *, epsilon=1e-5, scale=None, precision=None):
    """y = P v."""
    weights = heterogeneous_attention_matrix(
        query, key, alpha, epsilon=epsilon, scale=scale, precision=precision
    )
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)

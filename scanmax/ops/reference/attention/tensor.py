"""Third-order attention, as its equations."""

import jax.numpy as jnp
from jax import lax


def khatri_rao(left, right):
    """y[n M + m, d] = left[n, d] right[m, d]."""
    y = jnp.einsum("...nd,...md->...nmd", left, right)
    return lax.collapse(y, -3, -1)


def tensor_attention(
    query,
    first_key,
    second_key,
    first_value,
    second_value,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    precision=None,
):
    """softmax(scale q (k1 (/) k2)^T) (v1 (/) v2), (/) the Khatri-Rao product."""
    weights = tensor_attention_weights(
        query, first_key, second_key, mask, scale=scale, is_causal=is_causal
    )
    v1, v2 = (jnp.moveaxis(v, -2, -3) for v in (first_value, second_value))
    y = lax.collapse(weights, -2) @ khatri_rao(v1, v2)
    return jnp.moveaxis(y, -3, -2)


def tensor_attention_weights(
    query, first_key, second_key, mask=None, *, scale=None, is_causal=False, precision=None
):
    """softmax(scale q (k1 (/) k2)^T), as [*B, H, T, S, S]."""
    *batch, T, H, K = query.shape
    S = first_key.shape[-3]
    scale = 1 / K if scale is None else scale
    q, k1, k2 = (jnp.moveaxis(x, -2, -3) for x in (query, first_key, second_key))
    scores = jnp.exp(scale * (q @ jnp.swapaxes(khatri_rao(k1, k2), -1, -2)))
    allowed = jnp.ones((*batch, H, T, S), bool)
    if mask is not None:
        allowed = allowed & mask.reshape((1,) * (len(batch) + 3 - mask.ndim) + mask.shape)
    if is_causal:
        allowed = jnp.tril(allowed)
    pairs = jnp.einsum("...tj,...tk->...tjk", allowed, allowed).reshape(scores.shape)
    scores = jnp.where(pairs, scores, 0)
    total = jnp.sum(scores, -1, keepdims=True)
    return (scores / jnp.where(total == 0, 1, total)).reshape(*batch, H, T, S, S)

"""Attention under a soft causal mask, as its equations."""

import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import attention_matrix


def soft_causal_attention_matrix(
    query,
    key,
    strength,
    bias=None,
    mask=None,
    *,
    placement="weights",
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P = softmax(l) * M or softmax(l + log M), M = r + (1 - r) tril."""
    T, S = query.shape[-3], key.shape[-3]
    M = strength + (1 - strength) * jnp.tril(jnp.ones((T, S), query.dtype))
    options = {"scale": scale, "normalizer": normalizer, "precision": precision}
    if placement == "weights":
        weights = attention_matrix(query, key, bias, mask, **options)
        return weights * jnp.reshape(M, (1,) * (weights.ndim - 2) + M.shape)
    log = jnp.where(M > 0, jnp.log(jnp.where(M > 0, M, 1)), -jnp.inf)
    if bias is not None:
        log = log.reshape((1,) * max(bias.ndim - 2, 0) + log.shape)
        log = log + jnp.reshape(bias, (1,) * (log.ndim - bias.ndim) + bias.shape)
    return attention_matrix(query, key, log, mask, **options)


def soft_causal_attention(
    query,
    key,
    value,
    strength,
    bias=None,
    mask=None,
    *,
    placement="weights",
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y = P v."""
    weights = soft_causal_attention_matrix(
        query,
        key,
        strength,
        bias,
        mask,
        placement=placement,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)

"""Length-scaled cosine attention, as its equations."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import attention_matrix


def _unit(x):
    return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))


def length_scaled_cosine_attention_matrix(
    query,
    key,
    temperature,
    query_embedding=None,
    bias=None,
    mask=None,
    *,
    num_keys=None,
    is_causal=False,
    normalizer="softmax",
    key_value_seq_lengths=None,
    precision=None,
):
    """P = softmax(softplus(tau_h) log(n_t) (q_t / |q_t| + e_h) . k_s / |k_s| + bias)."""
    *batch, T, H, K = query.shape
    if num_keys is None:
        num_keys = jnp.full((*batch, T), key.shape[-3], query.dtype)
        if key_value_seq_lengths is not None:
            num_keys = jnp.minimum(num_keys, key_value_seq_lengths[..., None].astype(query.dtype))
        if is_causal:
            places = jnp.broadcast_to(jnp.arange(1, T + 1, dtype=query.dtype), num_keys.shape)
            num_keys = jnp.minimum(num_keys, places)
    embedding = jnp.zeros((H, K), query.dtype) if query_embedding is None else query_embedding
    embedding = jnp.broadcast_to(embedding, query.shape)
    length = jnp.broadcast_to(
        jnp.log(jnp.maximum(jnp.asarray(num_keys, query.dtype), 1)), (*batch, T)
    )
    factor = jnp.einsum("h,...t->...th", jax.nn.softplus(temperature), length)
    return attention_matrix(
        (_unit(query) + embedding) * factor[..., None],
        _unit(key),
        bias,
        mask,
        scale=1.0,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )


def length_scaled_cosine_attention(
    query,
    key,
    value,
    temperature,
    query_embedding=None,
    bias=None,
    mask=None,
    *,
    num_keys=None,
    is_causal=False,
    normalizer="softmax",
    key_value_seq_lengths=None,
    precision=None,
):
    """y = P v."""
    weights = length_scaled_cosine_attention_matrix(
        query,
        key,
        temperature,
        query_embedding,
        bias,
        mask,
        num_keys=num_keys,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)


def cosine_support_attention(query, support, labels, mask=None, *, scale=1.0, precision=None):
    """p_t = sum_s softmax_s(scale cos(query_t, support_s)) labels_s."""
    logits = scale * jnp.einsum("...td,...sd->...ts", _unit(query), _unit(support))
    weights = jnp.exp(logits)
    if mask is not None:
        weights = jnp.where(jnp.broadcast_to(mask[..., None, :], weights.shape), weights, 0)
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(total == 0, 0, weights / jnp.where(total == 0, 1, total))
    return jnp.einsum("...ts,...sc->...tc", weights, labels)

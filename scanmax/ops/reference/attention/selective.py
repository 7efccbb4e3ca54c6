"""Selective self-attention, as its equations."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import attention_matrix


def selective_temperature(
    token=None, strength=None, num_keys=None, *, combine="sum", position="sigmoid"
):
    """tau = tanh(f) + 1 + g log n, or (1 + tanh(f)) (1 + g log n)."""
    f = jnp.zeros((1, 1), strength.dtype) if token is None else jnp.tanh(token)
    if strength is None:
        return 1 + f
    g = jax.nn.sigmoid(strength) if position == "sigmoid" else jnp.exp(-jnp.exp(strength))
    log_n = jnp.log(jnp.atleast_1d(jnp.asarray(num_keys, f.dtype)))
    term = jnp.einsum("...t,h->...th", log_n, jnp.atleast_1d(g))
    f, term = (x.reshape((1,) * (max(f.ndim, term.ndim) - x.ndim) + x.shape) for x in (f, term))
    return f + 1 + term if combine == "sum" else (1 + f) * (1 + term)


def _full(temperature, shape, dtype):
    return jnp.broadcast_to(jnp.ones((), dtype) if temperature is None else temperature, shape)


def selective_attention_matrix(
    query,
    key,
    query_temperature=None,
    value_temperature=None,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    key_value_seq_lengths=None,
    precision=None,
):
    """P_ts = softmax_s(tau_q(t) scale q_t . k_s + bias) tau_v(s)."""
    sharpness = _full(query_temperature, query.shape[:-1], query.dtype)
    loudness = _full(value_temperature, key.shape[:-1], query.dtype)
    weights = attention_matrix(
        query * sharpness[..., None],
        key,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )
    loudness = jnp.repeat(loudness, query.shape[-2] // key.shape[-2], axis=-1)
    return jnp.einsum("...hts,...sh->...hts", weights, loudness)


def selective_attention(
    query,
    key,
    value,
    query_temperature=None,
    value_temperature=None,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    key_value_seq_lengths=None,
    precision=None,
):
    """y = P v."""
    weights = selective_attention_matrix(
        query,
        key,
        query_temperature,
        value_temperature,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)

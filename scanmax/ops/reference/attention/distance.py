"""Attention that decays with distance, as its equations."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.attention.dot_product import attention_matrix


def alibi_slopes(num_heads, *, dtype=jnp.float32):
    """m_h = 2^(-8 h / H); the released code's choice where H is no power of two."""
    power = 2 ** int(np.floor(np.log2(num_heads)))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    if power < num_heads:
        slopes += list(np.asarray(alibi_slopes(2 * power, dtype=jnp.float64)))[0::2]
    return jnp.asarray(np.array(slopes[:num_heads], np.float64), dtype)


def decay_mask_1d(log_decay, length):
    """D[h, t, s] = exp(log_decay_h)^|t - s|."""
    t = jnp.arange(length, dtype=log_decay.dtype)
    return jnp.stack([jnp.exp(rate) ** jnp.abs(t[:, None] - t[None]) for rate in log_decay])


def decay_mask_2d(log_decay, grid):
    """D = D(rows) (x) D(columns), a Kronecker product for each head."""
    rows, columns = (decay_mask_1d(log_decay, side) for side in grid)
    return jnp.stack([jnp.kron(row, column) for row, column in zip(rows, columns)])


def distance_attention_matrix(
    query,
    key,
    log_decay,
    query_positions=None,
    key_positions=None,
    bias=None,
    mask=None,
    *,
    placement="logits",
    prefix_tokens=0,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    precision=None,
):
    """P = softmax(l + log D) or softmax(l) * D, D = exp(log_decay_h |p_t - p_s|_1)."""
    T, S = query.shape[-3], key.shape[-3]
    if key_positions is None:
        key_positions = query_positions if T == S else None
    query_positions, key_positions = (
        jnp.arange(size) if positions is None else positions
        for size, positions in ((T, query_positions), (S, key_positions))
    )
    t, s = (p.reshape(len(p), -1).astype(log_decay.dtype) for p in (query_positions, key_positions))
    distance = jnp.sum(jnp.abs(t[:, None] - s[None]), -1)
    prefix = (prefix_tokens, prefix_tokens) if isinstance(prefix_tokens, int) else prefix_tokens
    distance = distance.at[: prefix[0]].set(0).at[:, : prefix[1]].set(0)
    log = jnp.stack([rate * distance for rate in log_decay])
    options = {"scale": scale, "is_causal": is_causal, "normalizer": normalizer}
    if placement == "logits":
        if bias is not None:
            log = jnp.reshape(log, (1,) * (bias.ndim - 3) + log.shape)
            log = log + jnp.reshape(bias, (1,) * (log.ndim - bias.ndim) + bias.shape)
        return attention_matrix(query, key, log, mask, precision=precision, **options)
    weights = attention_matrix(query, key, bias, mask, precision=precision, **options)
    return weights * jnp.reshape(jnp.exp(log), (1,) * (weights.ndim - 3) + log.shape)


def distance_attention(
    query,
    key,
    value,
    log_decay,
    query_positions=None,
    key_positions=None,
    bias=None,
    mask=None,
    *,
    placement="logits",
    prefix_tokens=0,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    precision=None,
):
    """y = P v."""
    weights = distance_attention_matrix(
        query,
        key,
        log_decay,
        query_positions,
        key_positions,
        bias,
        mask,
        placement=placement,
        prefix_tokens=prefix_tokens,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)

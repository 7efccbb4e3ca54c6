"""Windows of each head's own length: dense attention under the boolean mask of its pattern."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.attention.dot_product import (
    attention_matrix,
    dot_product_attention,
    extend_kv_cache,
)


def _mask(length, windows, sinks, is_causal, rule_length, prefix_tokens):
    """One pair after the other: may token t of head h read token s?"""
    mask = np.zeros((len(windows), length, length), bool)
    for h, window in enumerate(windows):
        if isinstance(window, tuple):
            window = max(int(np.floor(window[0] + window[1] * rule_length)), 1)
        for t in range(length):
            for s in range(length):
                near = abs(t - s) < window and s >= prefix_tokens
                special = t < prefix_tokens or s < prefix_tokens + sinks
                mask[h, t, s] = (near or special) and (s <= t or not is_causal)
    return jnp.asarray(mask)


def per_head_window_attention(
    query,
    key,
    value,
    *,
    windows,
    sinks=0,
    is_causal=True,
    length=None,
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y = softmax(q k^T where |i - j| < w_h or j < sinks) v."""
    T = query.shape[-3]
    mask = _mask(T, windows, sinks, is_causal, length or T, prefix_tokens)
    return dot_product_attention(
        query, key, value, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


def per_head_window_attention_matrix(
    query,
    key,
    *,
    windows,
    sinks=0,
    is_causal=True,
    length=None,
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P = softmax(q k^T where |i - j| < w_h or j < sinks)."""
    T = query.shape[-3]
    mask = _mask(T, windows, sinks, is_causal, length or T, prefix_tokens)
    return attention_matrix(
        query, key, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


def per_head_window_attention_step(
    state,
    query,
    key,
    value,
    *,
    windows,
    sinks=0,
    length=None,
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """S_t = S_{t-1}, (k_t, v_t);   y_t = the last row of the attention over S_t."""
    keys, values = extend_kv_cache(state, key[..., None, :, :], value[..., None, :, :])
    T = keys.shape[-3]
    mask = _mask(T, windows, sinks, True, length or T, prefix_tokens)[:, -1:]
    y = dot_product_attention(
        query[..., None, :, :],
        keys,
        values,
        mask=mask,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return y[..., 0, :, :], (keys, values)

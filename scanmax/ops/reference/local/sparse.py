"""Factorised sparse attention: dense attention under the boolean mask of its pattern."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.attention.dot_product import (
    attention_matrix,
    dot_product_attention,
    extend_kv_cache,
)


def _default_stride(stride, length, prefix_tokens):
    if stride is not None:
        return stride
    return int(np.ceil(np.sqrt(max(length - prefix_tokens, 1))))


def sparse_pattern(
    length,
    num_heads=1,
    *,
    pattern="strided",
    stride=None,
    summary=1,
    subblocks=1,
    combine="merged",
    is_causal=True,
    prefix_tokens=0,
):
    """One pair after the other: may token i read token j?"""
    stride = _default_stride(stride, length, prefix_tokens)
    mask = np.zeros((num_heads, length, length), bool)
    for h in range(num_heads):
        for t in range(length):
            for s in range(length):
                i, j = t - prefix_tokens, s - prefix_tokens
                if is_causal and s > t:
                    continue
                if i < 0 or j < 0:
                    mask[h, t, s] = True
                    continue
                if pattern == "strided":
                    local, far = abs(i - j) < stride, (i - j) % stride == 0
                else:
                    last = stride - (h % subblocks) * summary
                    local = i // stride == j // stride
                    far = last - summary <= j % stride < last
                first_heads = h < (num_heads + 1) // 2
                mask[h, t, s] = {
                    "merged": local or far,
                    "heads": local if first_heads else far,
                    "local": local,
                    "summary": far,
                }[combine]
    return jnp.asarray(mask)


def sparse_attention(
    query,
    key,
    value,
    *,
    pattern="strided",
    stride=None,
    summary=1,
    subblocks=1,
    combine="merged",
    is_causal=True,
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y = softmax(q k^T where the pattern allows) v."""
    mask = sparse_pattern(
        query.shape[-3],
        query.shape[-2],
        pattern=pattern,
        stride=stride,
        summary=summary,
        subblocks=subblocks,
        combine=combine,
        is_causal=is_causal,
        prefix_tokens=prefix_tokens,
    )
    return dot_product_attention(
        query, key, value, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


def sparse_attention_matrix(
    query,
    key,
    *,
    pattern="strided",
    stride=None,
    summary=1,
    subblocks=1,
    combine="merged",
    is_causal=True,
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P = softmax(q k^T where the pattern allows)."""
    mask = sparse_pattern(
        query.shape[-3],
        query.shape[-2],
        pattern=pattern,
        stride=stride,
        summary=summary,
        subblocks=subblocks,
        combine=combine,
        is_causal=is_causal,
        prefix_tokens=prefix_tokens,
    )
    return attention_matrix(
        query, key, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


def sparse_attention_step(
    state,
    query,
    key,
    value,
    *,
    pattern="strided",
    stride=None,
    summary=1,
    subblocks=1,
    combine="merged",
    prefix_tokens=0,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """S_t = S_{t-1}, (k_t, v_t);   y_t = the last row of sparse attention over S_t."""
    keys, values = extend_kv_cache(state, key[..., None, :, :], value[..., None, :, :])
    length = keys.shape[-3]
    mask = sparse_pattern(
        length,
        query.shape[-2],
        pattern=pattern,
        stride=stride,
        summary=summary,
        subblocks=subblocks,
        combine=combine,
        prefix_tokens=prefix_tokens,
    )[:, -1:]
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

"""Attention of sequences that are split over devices: the equations know of no devices."""

import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import dot_product_attention


def zigzag_order(length, devices):
    """Device d holds parts d and 2 P - 1 - d of the 2 P equal parts of the sequence."""
    part = length // (2 * devices)
    order = []
    for device in range(devices):
        for index in (device, 2 * devices - 1 - device):
            order += range(index * part, (index + 1) * part)
    return jnp.array(order, jnp.int32)


def context_attention(
    query,
    key,
    value,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """dot_product_attention of the whole arrays, in the order of the sequence."""
    return dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
    )

"""Aggregated attention, as dense masked attention over all pixels and the pooled keys."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from scanmax.ops.reference.attention.dot_product import attention_matrix


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def aggregated_attention_matrix(
    query,
    key,
    pooled_key,
    local_bias=None,
    pooled_bias=None,
    local_weights=None,
    *,
    kernel_size=3,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P = normalizer over P + T masked keys, and local_weights on the pixels around each query."""
    *batch, Y, X, H, _ = query.shape
    ky, kx = _pair(kernel_size)
    P, T = pooled_key.shape[-3], Y * X
    y, x = (place.reshape(-1) for place in np.indices((Y, X)))
    dy = y[None] - y[:, None] + ky // 2
    dx = x[None] - x[:, None] + kx // 2
    near = (dy >= 0) & (dy < ky) & (dx >= 0) & (dx < kx)
    offset = np.where(near, dy * kx + dx, 0)  # [T, T]

    bias = jnp.zeros((H, T, P + T), query.dtype)
    if pooled_bias is not None:
        bias = bias.at[..., :P].add(pooled_bias.reshape(H, T, P))
    if local_bias is not None:
        bias = bias.at[..., P:].add(local_bias.reshape(H, -1)[:, offset])
    flat = [z.reshape(*batch, T, *z.shape[-2:]) for z in (query, key)]
    weights = attention_matrix(
        flat[0],
        jnp.concatenate([pooled_key, flat[1]], -3),
        bias,
        jnp.asarray(np.pad(near, ((0, 0), (P, 0)), constant_values=True)),
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    if local_weights is not None:
        by_head = jnp.moveaxis(lax.collapse(local_weights, -4, -2), -2, -3)  # [*B, H, T, O]
        added = jnp.stack([by_head[..., t, offset[t]] for t in range(T)], -2)
        weights = weights.at[..., P:].add(jnp.where(near, added, 0))
    return weights


def aggregated_attention(
    query,
    key,
    value,
    pooled_key,
    pooled_value,
    local_bias=None,
    pooled_bias=None,
    local_weights=None,
    *,
    kernel_size=3,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y = P [pooled_value, value]."""
    *batch, Y, X, H, _ = query.shape
    weights = aggregated_attention_matrix(
        query,
        key,
        pooled_key,
        local_bias,
        pooled_bias,
        local_weights,
        kernel_size=kernel_size,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    values = value.reshape(*batch, Y * X, *value.shape[-2:])
    values = jnp.concatenate([pooled_value, values], -3)
    values = jnp.repeat(values, H // values.shape[-2], -2)
    y = jnp.einsum("...hts,...shv->...thv", weights, values)
    return y.reshape(*batch, Y, X, *y.shape[-2:])

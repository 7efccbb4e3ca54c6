"""Gated positional self-attention, as its equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.attention.dot_product import attention_matrix


def gpsa_matrix(
    query, key, position_weight, gate, *, grid, prefix_tokens=0, scale=None, precision=None
):
    """A = normalise((1 - s) softmax(scale q k^T) + s softmax(w . (dx, dy, dx^2 + dy^2)))."""
    y, x = (jnp.asarray(axis.ravel(), query.dtype) for axis in np.indices(grid))
    dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
    r = jnp.stack([dx, dy, dx**2 + dy**2], -1)  # [N, N, 3]
    place = jax.nn.softmax(jnp.einsum("hr,ijr->hij", position_weight, r), -1)
    content = attention_matrix(query, key, scale=scale, precision=precision)
    # a prefix token has no place: its rows are content
    whole = jnp.zeros(content.shape[-3:]).at[:, prefix_tokens:, prefix_tokens:].set(place)
    is_pixel = (jnp.arange(content.shape[-1]) >= prefix_tokens)[None, :, None]
    s = jnp.where(is_pixel, jax.nn.sigmoid(gate)[:, None, None], 0.0)
    s, whole = jnp.broadcast_to(s, content.shape), jnp.broadcast_to(whole, content.shape)
    weights = (1 - s) * content + s * whole
    return weights / jnp.sum(weights, -1, keepdims=True)


def gpsa(
    query,
    key,
    value,
    position_weight,
    gate,
    *,
    grid,
    prefix_tokens=0,
    scale=None,
    precision=None,
):
    """y = A v."""
    weights = gpsa_matrix(
        query,
        key,
        position_weight,
        gate,
        grid=grid,
        prefix_tokens=prefix_tokens,
        scale=scale,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)


def gpsa_position_weight(heads, *, strength=1.0, dtype=jnp.float32):
    """w = strength (2 j', 2 i', -1) for head i + n j, i' = i - (n - 1) / 2, j' likewise."""
    n = math.isqrt(heads)
    rows = [[0.0, 0.0, 0.0] for _ in range(heads)]
    for i in range(n):
        for j in range(n):
            tap = (2 * (j - (n - 1) / 2), 2 * (i - (n - 1) / 2), -1)
            rows[i + n * j] = [strength * w for w in tap]
    return jnp.asarray(rows, dtype)

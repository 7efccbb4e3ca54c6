"""Attention over pooled keys, as means and sums."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from scanmax.ops.reference.attention.dot_product import attention_matrix, dot_product_attention


def pool_tokens(x, window, *, remainder="drop"):
    """y_s = mean of the tokens s w, ..., s w + w - 1."""
    length = x.shape[-2]
    window = min(window, length)
    starts = [t for t in range(0, length, window) if t + window <= length or remainder == "keep"]
    return jnp.stack([jnp.mean(x[..., t : t + window, :], -2) for t in starts], -2)


def _cells(length, ratio, cells):
    """(first, last) of each cell."""
    if ratio is not None:
        return [(t, min(t + ratio, length)) for t in range(0, length, ratio)]
    return [
        (int(np.floor(i * length / cells)), int(np.ceil((i + 1) * length / cells)))
        for i in range(cells)
    ]


def _both(value):
    return (value, value) if value is None or isinstance(value, int) else value


def _pooled_map(x, ratio, size):
    """y_uv = mean of x over the rows of cell u and the columns of cell v."""
    rows, columns = (_cells(n, r, m) for n, r, m in zip(x.shape[-3:-1], _both(ratio), _both(size)))
    return jnp.stack(
        [
            jnp.stack([jnp.mean(x[..., a:b, c:d, :], (-3, -2)) for c, d in columns], -2)
            for a, b in rows
        ],
        -3,
    )


def _pooled(x, ratio, size):
    flat = lax.collapse(_pooled_map(lax.collapse(x, -2), ratio, size), -3, -1)
    return flat.reshape(*flat.shape[:-1], *x.shape[-2:])


def spatial_reduction_attention(
    query, key, value, *, ratio=None, size=None, scale=None, normalizer="softmax", precision=None
):
    """y = normalizer(scale q pool(k)^T) pool(v)."""
    keywords = {"scale": scale, "normalizer": normalizer, "precision": precision}
    return dot_product_attention(
        query, _pooled(key, ratio, size), _pooled(value, ratio, size), **keywords
    )


def spatial_reduction_attention_matrix(
    query, key, *, ratio=None, size=None, scale=None, normalizer="softmax", precision=None
):
    """P_ts = sum_c normalizer(scale q pool(k)^T)_tc pool_cs."""
    keywords = {"scale": scale, "normalizer": normalizer, "precision": precision}
    weights = attention_matrix(query, _pooled(key, ratio, size), **keywords)
    Y, X = key.shape[-4:-2]
    pixels = jnp.eye(Y * X, dtype=weights.dtype).reshape(Y, X, Y * X)
    cells = _pooled_map(pixels, ratio, size).reshape(-1, Y * X)
    return jnp.einsum("...tc,cs->...ts", weights, cells)

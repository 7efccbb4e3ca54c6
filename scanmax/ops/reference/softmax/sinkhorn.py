"""Entropic optimal transport, as its scaling iterations."""

import jax.numpy as jnp


def sinkhorn(cost, row_weights=None, column_weights=None, *, epsilon=0.05, iterations=100):
    """P = diag(u) K diag(v), K = exp(-C / epsilon), u = a / (K v), v = b / (K^T u)."""
    *batch, T, S = cost.shape
    a, b = (
        jnp.full((*batch, size), 1 / max(size, 1), cost.dtype) if weights is None else weights
        for weights, size in ((row_weights, T), (column_weights, S))
    )
    kernel = jnp.exp(-cost / epsilon)
    v = jnp.where(b > 0, jnp.ones_like(b), 0)
    for _ in range(iterations):
        u = a / jnp.einsum("...ts,...s->...t", kernel, v)
        v = b / jnp.einsum("...ts,...t->...s", kernel, u)
    return u[..., :, None] * kernel * v[..., None, :]

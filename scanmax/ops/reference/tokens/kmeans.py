"""k-means cross-attention, pixel by pixel."""

import jax
import jax.numpy as jnp


def kmeans_cross_attention_matrix(query, key, *, precision=None):
    """For each pixel a one at the query with the largest product, zeros elsewhere."""
    columns = []
    for s in range(key.shape[-3]):
        affinity = jnp.sum(query * key[..., s : s + 1, :, :], axis=-1)  # [*B, M, H]
        best = jnp.argmax(affinity, axis=-2)
        columns.append(jnp.moveaxis(jax.nn.one_hot(best, query.shape[-3]), -1, -2))
    matrix = jnp.moveaxis(jnp.stack(columns, axis=-1), -2, -3)  # [*B, H, M, S]
    return jax.lax.stop_gradient(matrix.astype(query.dtype))


def kmeans_cross_attention(query, key, value, *, precision=None):
    """y_m = sum_s a_ms v_s."""
    matrix = kmeans_cross_attention_matrix(query, key)
    return jnp.einsum("...hms,...shv->...mhv", matrix.astype(value.dtype), value)

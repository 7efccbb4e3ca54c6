"""Cross-covariance attention."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype


def cross_covariance_attention(
    query, key, value, *, temperature=1.0, epsilon=1e-12, precision=None
):
    """y_t = A v_t."""
    matrix = cross_covariance_matrix(query, key, temperature=temperature, epsilon=epsilon)
    dtype = accumulator_dtype(matrix, value)
    y = (matrix.astype(dtype)[..., None, :, :, :] * value.astype(dtype)[..., None, :]).sum(-1)
    return y.astype(value.dtype)


def cross_covariance_matrix(query, key, *, temperature=1.0, epsilon=1e-12, precision=None):
    """A = softmax(temperature q^T k) of q and k whose channels have length one."""
    dtype = accumulator_dtype(query, key)

    def unit(x):
        length = jnp.sqrt((x * x).sum(-3, keepdims=True))
        return x / jnp.maximum(length, epsilon)

    q, k = unit(query.astype(dtype)), unit(key.astype(dtype))
    covariance = (q[..., :, None] * k[..., None, :]).sum(-4)  # [*B, H, K, K]
    temperature = jnp.asarray(temperature, dtype).reshape(-1, 1, 1)
    temperature = temperature.reshape((1,) * (covariance.ndim - 3) + temperature.shape)
    return jax.nn.softmax(temperature * covariance).astype(query.dtype)

"""Spectral pooling, as the circular convolution with the inverse transform of its mask."""

import jax.numpy as jnp
import numpy as np


def spectral_pooling(x, low_weight, *, radius=2):
    """y[u, v] = sum_ij k[i, j] x[u - i, v - j] around the map, k = ifft2(m), as ifftshift has m."""
    rows, columns = x.shape[-3:-1]
    u, v = np.mgrid[:rows, :columns]
    distance = np.sqrt((u - rows // 2) ** 2 + (v - columns // 2) ** 2)

    def kernel_of(mask):
        return jnp.asarray(np.fft.ifft2(np.fft.ifftshift(mask)).real, x.dtype)

    low, high, ring = (
        kernel_of(mask) for mask in (distance < radius, distance > radius, distance == radius)
    )
    y = jnp.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            k = low[i, j] * low_weight + high[i, j] * (1 - low_weight) + ring[i, j] / 3
            y = y + jnp.broadcast_to(k, x.shape) * jnp.roll(x, (i, j), (-3, -2))
    return y

"""Small-kernel aggregation, channel by channel and tap by tap."""

import math

import jax.numpy as jnp


def small_kernel_aggregation(x, weights):
    """y_c(p) = sum_o weights_{c mod G}(p, o) x_c(p + o)."""
    rows, columns, channels = x.shape[-3:]
    groups, size = weights.shape[-2], math.isqrt(weights.shape[-1])
    reach = size // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, reach)] * 2 + [(0, 0)])
    y = []
    for c in range(channels):
        total = 0
        for i in range(size):
            for j in range(size):
                near = padded[..., i : i + rows, j : j + columns, c]
                total = total + weights[..., c % groups, size * i + j] * near
        y.append(total)
    return jnp.stack(y, -1)

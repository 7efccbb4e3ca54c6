"""Global filters, as circular convolutions, and their weights as a function of frequency."""

import jax
import jax.numpy as jnp
import numpy as np


def global_filter(x, weight):
    """y[u, v] = sum_ij k[i, j] x[u - i, v - j] around the map, k = irfft2(weight)."""
    rows, columns = x.shape[-3:-1]
    gains = jax.lax.complex(weight[..., 0], weight[..., 1])
    kernel = jnp.fft.irfft2(gains, s=(rows, columns), axes=(0, 1))
    y = jnp.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            y = y + jnp.roll(x, (i, j), (-3, -2)) * jnp.broadcast_to(kernel[i, j], x.shape)
    return y


def resample_filter(weight, grid, new_grid):
    """w'(f, g), interpolated between the four neighbours of the frequency (f, g)."""
    rows, highest = grid[0], grid[1] // 2
    result = []
    for u in range(new_grid[0]):
        f = u / new_grid[0] * rows
        a = int(np.floor(f))
        for v in range(new_grid[1] // 2 + 1):
            g = min(v / new_grid[1] * grid[1], highest)
            b = int(np.floor(g))
            near = [
                (1 - abs(g - column))
                * ((1 - (f - a)) * weight[a, column] + (f - a) * weight[(a + 1) % rows, column])
                for column in range(b, min(b + 1, highest) + 1)
            ]
            result.append(sum(near))
    return jnp.stack(result).reshape(new_grid[0], -1, *weight.shape[2:])

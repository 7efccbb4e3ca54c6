"""Kernels of long convolutions, tap by tap and point by point."""

import math

import jax.numpy as jnp


def sgconv_kernel(weights, multiplier=2.0, *, length, arrangement="cat", interpolation="linear"):
    """Each tap from the two weights around it (or the nearest), by its place in the piece."""
    scales, size, channels = weights.shape
    multiplier = jnp.broadcast_to(jnp.asarray(multiplier, weights.dtype), (channels,))
    taps = [jnp.zeros(channels, weights.dtype)] * (size * 2**scales)
    start = 0
    for i in range(scales):
        factor = 2 ** (i if arrangement == "sum" else max(i - 1, 0))
        for j in range(size * factor):
            if interpolation == "nearest":
                value = weights[i, j // factor]
            else:
                place = min(max((j + 0.5) / factor - 0.5, 0), size - 1)
                low = math.floor(place)
                high = min(low + 1, size - 1)
                value = weights[i, low] * (1 - (place - low)) + weights[i, high] * (place - low)
            taps[start + j] = taps[start + j] + value * multiplier ** (scales - 1 - i)
        start += size * factor if arrangement == "cat" else 0
    taps += [jnp.zeros(channels, weights.dtype)] * max(0, length - len(taps))
    return jnp.stack(taps[:length])


def point_kernel(coordinates, positions, radius, weights, *, averaged=False):
    """sum_i w_ic max(0, 1 - |x - p_i|_1 / r_i), over the points in reach where averaged."""
    channels = weights.shape[1]
    positions = jnp.broadcast_to(positions, (channels, *positions.shape[-2:]))
    radius = jnp.broadcast_to(radius, (channels, radius.shape[-1]))
    flat = coordinates.reshape(-1, coordinates.shape[-1])
    kernel = []
    for c in range(channels):
        distance = jnp.abs(flat[:, None, :] - positions[c][None]).sum(-1)  # [N, P]
        near = jnp.maximum(0, 1 - distance / radius[c][None])
        if averaged:
            near = near / ((near != 0).sum(-1, keepdims=True).astype(near.dtype) + 1e-6)
        kernel.append((near * weights[None, :, c]).sum(-1))
    return jnp.stack(kernel, -1).reshape(*coordinates.shape[:-1], channels)


def squash_kernel(kernel, threshold=1e-3):
    """sign(k) max(|k| - threshold, 0)."""
    return jnp.sign(kernel) * jnp.maximum(jnp.abs(kernel) - threshold, 0)


def smooth_kernel(kernel, *, width=7):
    """1 / width sum_i k_{j+i}."""
    length, half = kernel.shape[0], width // 2
    return jnp.stack(
        [kernel[max(j - half, 0) : j + half + 1].sum(0) / width for j in range(length)]
    )

"""Oversized convolution, as products with two Toeplitz matrices of each channel."""

import jax.numpy as jnp
import numpy as np


def _matrix(taps, size, interpolate):
    """[C, size, size]: tap i - u of the middle one, for every u and i."""
    if interpolate:
        length = 2 * size - 1
        places = [
            (len(taps) - 1) * (n / (length - 1) if length > 1 else 0.5) for n in range(length)
        ]
        below = np.minimum(np.floor(places), max(len(taps) - 2, 0)).astype(int)
        share = jnp.asarray(places - below, taps.dtype)[:, None]
        above = np.minimum(below + 1, len(taps) - 1)
        taps = (1 - share) * taps[below] + share * taps[above]
    middle = len(taps) // 2
    offsets = np.arange(size)[None] - np.arange(size)[:, None] + middle
    inside = jnp.asarray((offsets >= 0) & (offsets < len(taps)))[..., None]
    matrix = jnp.where(inside, taps[np.clip(offsets, 0, len(taps) - 1)], 0)
    return jnp.moveaxis(matrix, -1, 0)


def oversized_conv2d(x, column, row, *, interpolate=True):
    """y = x times the matrix of the column along Y, times that of the row along X."""
    down = _matrix(column, x.shape[-3], interpolate)
    across = _matrix(row, x.shape[-2], interpolate)
    return jnp.einsum("cui,cvj,...ijc->...uvc", down, across, x)

"""The weights with which attention over patches convolves, entry by entry."""

import math

import jax.numpy as jnp
import numpy as np


def convolution_attention_weights(kernel, *, patch_size, grid, sharpness=math.inf):
    """bias_hts = 0 where s is the neighbour of t at head h's offset; out_h its Toeplitz block."""
    ky, kx, C, O = kernel.shape
    P, (rows, columns) = patch_size, grid
    before = (ky - 1) // 2, (kx - 1) // 2
    up, left = (math.ceil(b / P) for b in before)
    down, right = math.ceil((ky // 2) / P), math.ceil((kx // 2) / P)
    offsets = [(a, b) for a in range(-up, down + 1) for b in range(-left, right + 1)]
    bias = np.full((len(offsets), rows * columns, rows * columns + 1), -sharpness)
    out = jnp.zeros((len(offsets), P, P, C, P, P, O), kernel.dtype)
    for h, (a, b) in enumerate(offsets):
        for y in range(rows):
            for x in range(columns):
                inside = 0 <= y + a < rows and 0 <= x + b < columns
                s = (y + a) * columns + x + b if inside else rows * columns
                bias[h, y * columns + x, s] = 0
        for i, j, u, v in np.ndindex(P, P, P, P):
            m, n = a * P + i - u + before[0], b * P + j - v + before[1]
            if 0 <= m < ky and 0 <= n < kx:
                out = out.at[h, i, j, :, u, v].set(kernel[m, n])
    return jnp.asarray(bias, kernel.dtype), out.reshape(len(offsets), P * P * C, P * P * O)

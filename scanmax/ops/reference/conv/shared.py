"""Convolutions of tokens as maps, tap by tap."""

import jax.numpy as jnp


def shared_conv2d(x, kernel, *, padding="SAME", precision=None):
    """y_tpm = sum_ij w_ijm x_t(p + (i, j))."""
    rows, columns = kernel.shape[:2]
    if padding == "SAME":
        sides = [((size - 1) // 2, size // 2) for size in (rows, columns)]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + sides)
    down, right = x.shape[-2] - rows + 1, x.shape[-1] - columns + 1
    y = 0
    for i in range(rows):
        for j in range(columns):
            window = x[..., i : i + down, j : j + right]
            y = y + jnp.einsum("...,m->...m", window, kernel[i, j])
    return y

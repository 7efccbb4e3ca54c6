"""Convolution over a grid of two sequences, cell after cell."""

import jax.numpy as jnp


def causal_conv2d(x, kernel, bias=None, *, dilation=1, precision=None):
    """y_ts = sum_ij x_(t - d (kt - 1 - i), s + j - (ks - 1) / 2) kernel_ij + bias."""
    del precision
    (T, S), (kt, ks) = x.shape[-3:-1], kernel.shape[:2]
    rows = []
    for t in range(T):
        cells = []
        for s in range(S):
            y = jnp.zeros((*x.shape[:-3], kernel.shape[-1]), x.dtype)
            for i in range(kt):
                for j in range(ks):
                    row, column = t - dilation * (kt - 1 - i), s + j - ks // 2
                    if row >= 0 and 0 <= column < S:
                        y = y + jnp.einsum("...c,co->...o", x[..., row, column, :], kernel[i, j])
            cells.append(y if bias is None else y + jnp.broadcast_to(bias, y.shape))
        rows.append(jnp.stack(cells, -2))
    return jnp.stack(rows, -3)

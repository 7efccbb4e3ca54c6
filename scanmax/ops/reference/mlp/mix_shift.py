"""Shifts of groups of channels and their convolutions, channel after channel."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.conv.conv2d import depthwise_conv2d


def mix_shift(x, row_kernels, column_kernels, *, distances=(-2, -1, 0, 1, 2), precision=None):
    """y_i = k_i * shift(x_i, d_i along X) + l_i * shift(x_i, d_i along Y)."""
    del precision
    (rows, columns), done = x.shape[-3:-1], []
    parts = jnp.split(x, np.cumsum([kernel.shape[-1] for kernel in row_kernels])[:-1], -1)
    for part, row, column, distance in zip(parts, row_kernels, column_kernels, distances):
        along_rows = part[..., :, (np.arange(columns) - distance) % columns, :]
        along_columns = part[..., (np.arange(rows) - distance) % rows, :, :]
        done.append(depthwise_conv2d(along_rows, row) + depthwise_conv2d(along_columns, column))
    return jnp.concatenate(done, -1)

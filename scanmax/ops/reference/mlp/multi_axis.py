"""Linear maps over blocks and over grids, as sums over the pixels that share one."""

import jax.numpy as jnp
import numpy as np


def _sum(x, kernel, bias, place, group):
    """y_r = sum_s kernel[place_s, place_r] x_s over the pixels s of the group of r, + bias."""
    *batch, rows, columns, channels = x.shape
    place, group = place.reshape(-1), group.reshape(-1)
    together = jnp.asarray(group[:, None] == group[None], kernel.dtype)
    matrix = kernel[place[:, None], place[None]] * together
    y = jnp.einsum("sr,...sc->...rc", matrix, x.reshape(*batch, rows * columns, channels))
    if bias is not None:
        y = y + jnp.broadcast_to(bias[place][:, None], y.shape)
    return y.reshape(x.shape)


def _pixels(x):
    return np.meshgrid(*(np.arange(n) for n in x.shape[-3:-1]), indexing="ij")


def block_mix(x, kernel, bias=None, *, block_size, precision=None):
    """y_(i b + q) = sum_p kernel_pq x_(i b + p) + bias_q."""
    del precision
    (by, bx), (row, column) = block_size, _pixels(x)
    place, group = row % by * bx + column % bx, row // by * x.shape[-2] + column // bx
    return _sum(x, kernel, bias, place, group)


def grid_mix(x, kernel, bias=None, *, grid_size, precision=None):
    """y_(q s + i) = sum_p kernel_pq x_(p s + i) + bias_q, s the pixels of a cell."""
    del precision
    (gy, gx), (row, column) = grid_size, _pixels(x)
    sy, sx = -(-x.shape[-3] // gy), -(-x.shape[-2] // gx)
    place, group = row // sy * gx + column // sx, row % sy * sx + column % sx
    return _sum(x, kernel, bias, place, group)

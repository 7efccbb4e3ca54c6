"""Blocks of pixels into channels and back, as slices."""

import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import conv2d


def _offsets(b, block_order):
    """Rows and columns (i, j) of a block, in the order of the channels."""
    if block_order == "rows":
        return [(i, j) for i in range(b) for j in range(b)]
    return [(i, j) for j in range(b) for i in range(b)]


def space_to_depth(x, block_size=2, *, block_order="columns"):
    """The sub-maps x[i::b, j::b], one after another along the channels."""
    b = block_size
    return jnp.concatenate([x[..., i::b, j::b, :] for i, j in _offsets(b, block_order)], -1)


def depth_to_space(x, block_size=2, *, block_order="columns"):
    """y[i::b, j::b] is the slice of channels in the place of (i, j)."""
    b, (rows, columns, channels) = block_size, x.shape[-3:]
    y = jnp.zeros((*x.shape[:-3], rows * b, columns * b, channels // b**2), x.dtype)
    for (i, j), part in zip(_offsets(b, block_order), jnp.split(x, b**2, -1)):
        y = y.at[..., i::b, j::b, :].set(part)
    return y


def spd_conv(x, kernel, *, block_size=2, block_order="columns", padding="SAME", precision=None):
    """y = conv2d(space_to_depth(x, b), kernel)."""
    blocks = space_to_depth(x, block_size, block_order=block_order)
    return conv2d(blocks, kernel, padding=padding, precision=precision)

"""Factorised convolutions, as the one with the kernel that their factors make."""

import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import conv2d


def cp_conv2d(x, channels, rows, columns, outputs, *, precision=None):
    """y = x * W, W_ijco = sum_r rows_ir columns_jr channels_cr outputs_ro."""
    del precision
    return conv2d(x, jnp.einsum("ir,jr,cr,ro->ijco", rows, columns, channels, outputs))

"""Shifts in eight directions, as a depthwise convolution whose kernels have a single one."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.conv.conv2d import depthwise_conv2d

OFFSETS = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def shift_eight(x, *, steps=1):
    """y_c = x_c * k_c, where k_c is 1 at s o_g from its middle and 0 elsewhere."""
    channels = x.shape[-1]
    kernel = np.zeros((2 * steps + 1, 2 * steps + 1, 1, channels))
    for c in range(channels):
        down, right = OFFSETS[8 * c // channels]
        kernel[steps * (1 + down), steps * (1 + right), 0, c] = 1
    return depthwise_conv2d(x, jnp.asarray(kernel, x.dtype), padding=steps)

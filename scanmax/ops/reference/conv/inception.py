"""The depthwise convolution of InceptionNeXt, as the one of kernels padded with zeros."""

import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import depthwise_conv2d


def _centred(kernel, size):
    """The kernel in the middle of one of size by size taps, zeros around it."""
    pads = [((size - n) // 2, size - n - (size - n) // 2) for n in kernel.shape[:2]]
    return jnp.pad(kernel, [*pads, (0, 0), (0, 0)])


def inception_depthwise_conv2d(x, square, row, column, *, identity="first", precision=None):
    """One depthwise convolution; the kernel of a channel that passes is 1 in its middle."""
    kernels = (square, row, column)
    size = max(n for kernel in kernels for n in kernel.shape[:2])
    passing = x.shape[-1] - sum(kernel.shape[3] for kernel in kernels)
    one = jnp.ones((1, 1, 1, passing), square.dtype)
    kernels = (one, *kernels) if identity == "first" else (*kernels, one)
    kernel = jnp.concatenate([_centred(kernel, size) for kernel in kernels], -1)
    before = (size - 1) // 2
    padding = ((before, size - 1 - before),) * 2
    return depthwise_conv2d(x, kernel, padding=padding, precision=precision)

"""SMT's mixed heads as one convolution of padded kernels, and its shuffle as one is written."""

import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import depthwise_conv2d


def mixed_head_conv2d(x, kernels, *, precision=None):
    """One depthwise convolution, whose kernels are padded with zeros to the largest."""
    size = max(side for kernel in kernels for side in kernel.shape[:2])
    padded = []
    for kernel in kernels:
        pads = [((size - n) // 2, size - n - (size - n) // 2) for n in kernel.shape[:2]]
        padded.append(jnp.pad(kernel, [*pads, (0, 0), (0, 0)]))
    before = (size - 1) // 2
    padding = ((before, size - 1 - before),) * 2
    return depthwise_conv2d(x, jnp.concatenate(padded, -1), padding=padding, precision=precision)


def scale_aware_aggregation(x, kernel, *, precision=None):
    """The heads' channels are shuffled, then each group of H of them has a matrix."""
    heads, width, outputs = kernel.shape
    shuffled = jnp.swapaxes(x.reshape(*x.shape[:-1], heads, width), -1, -2)  # [*B, G, H]
    y = jnp.einsum("...gh,hge->...ge", shuffled, kernel, precision=precision)
    return y.reshape(*x.shape[:-1], width * outputs)

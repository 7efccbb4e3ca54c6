"""CondConv, as the mixture of the n convolutions."""

import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import conv2d


def cond_conv2d(
    x,
    kernels,
    weights,
    biases=None,
    *,
    stride=1,
    padding="SAME",
    dilation=1,
    groups=1,
    precision=None,
):
    """y_b = sum_i weights_bi (x_b * kernels_i + biases_i): every kernel is convolved with."""
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = 0
    for i in range(len(kernels)):
        convolved = conv2d(x, kernels[i], precision=precision, **options)
        if biases is not None:
            convolved = convolved + jnp.broadcast_to(biases[i], convolved.shape)
        y = y + weights[..., i, None, None, None] * convolved
    return y

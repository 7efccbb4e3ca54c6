"""Convolutional additive attention, as its equations."""

import jax

from scanmax.ops.reference.conv.conv2d import depthwise_conv2d


def _phi(x, spatial, channel):
    if spatial is not None:
        x = x * jax.nn.sigmoid(spatial)
    if channel is not None:
        x = x * jax.nn.sigmoid(channel[..., None, None, :])
    return x


def conv_additive_attention(
    query,
    key,
    value,
    kernel,
    bias=None,
    *,
    query_spatial=None,
    key_spatial=None,
    query_channel=None,
    key_channel=None,
):
    """y = (DW(phi(q) + phi(k)) + bias) * v."""
    added = _phi(query, query_spatial, query_channel)
    added = added + _phi(key, key_spatial, key_channel)
    y = depthwise_conv2d(added, kernel)
    if bias is not None:
        y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
    return y * value

"""Convolutional additive attention: gated queries and keys are added, convolved, and multiplied."""

import jax
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, align, check_rank, check_shape, op
from scanmax.ops.conv.conv2d import depthwise_conv2d


@op()
def conv_additive_attention(
    query: Float[Array, "*B Y X C"],
    key: Float[Array, "*B Y X C"],
    value: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx 1 C"],
    bias: Float[Array, " C"] | None = None,
    *,
    query_spatial: Float[Array, "*B Y X 1"] | None = None,
    key_spatial: Float[Array, "*B Y X 1"] | None = None,
    query_channel: Float[Array, "*B C"] | None = None,
    key_channel: Float[Array, "*B C"] | None = None,
) -> Float[Array, "*B Y X C"]:
    """The convolutional additive token mixer: no softmax, no product of tokens with tokens.

        phi(q) = q * sigmoid(spatial logits of q) * sigmoid(channel logits of q)
        y = DW(phi(q) + phi(k)) * v

    and phi(k) likewise with its own gates; DW is a depthwise convolution with zero padding. Linear
    in the pixels. A gate that is None is left out, as if it were 1. The released code makes the
    spatial logits by a depthwise 3x3 convolution, batch norm, ReLU and a product to one channel,
    the channel logits by a product with the mean of the spatially gated map, and ends with another
    depthwise convolution: those belong to the module.

    Args:
      query: [*B, Y, X, C] map.
      key: [*B, Y, X, C].
      value: [*B, Y, X, C].
      kernel: [ky, kx, 1, C] of the convolution.
      bias: [C], added by the convolution.
      query_spatial: [*B, Y, X, 1] logits of the spatial gate of the query.
      key_spatial: the same of the key.
      query_channel: [*B, C] logits of the channel gate of the query.
      key_channel: the same of the key.

    Returns:
      [*B, Y, X, C] in the dtype of value.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 2, 1))
      >>> ops.conv_additive_attention(x, x, 3 * x, jnp.ones((1, 1, 1, 1)))[..., 0]
      Array([[6., 6.]], dtype=float32)

    Reference: cas-vit
    """
    check_rank(3, query=query, key=key, value=value)
    channels = query.shape[-1]
    check_shape("key", key, query.shape, "the shape of query")
    check_shape("value", value, query.shape, "the shape of query")
    check_shape("bias", bias, (channels,), "[C]")
    for name, gate in (("query_spatial", query_spatial), ("key_spatial", key_spatial)):
        check_shape(name, gate, (*query.shape[:-1], 1), "[*B, Y, X, 1]")
    for name, gate in (("query_channel", query_channel), ("key_channel", key_channel)):
        check_shape(name, gate, (*query.shape[:-3], channels), "[*B, C]")
    dtype = accumulator_dtype(query, key, value)
    context = _gated(query.astype(dtype), query_spatial, query_channel)
    context = context + _gated(key.astype(dtype), key_spatial, key_channel)
    y = depthwise_conv2d(context, kernel.astype(dtype))
    if bias is not None:
        y = y + align(bias.astype(dtype), y)
    return (y * value.astype(dtype)).astype(value.dtype)


def _gated(x, spatial, channel):
    if spatial is not None:
        x = x * jax.nn.sigmoid(spatial.astype(x.dtype))
    if channel is not None:
        x = x * jax.nn.sigmoid(channel.astype(x.dtype))[..., None, None, :]
    return x

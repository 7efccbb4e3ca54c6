"""Convolution whose kernel is mixed anew for every example: CondConv."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_rank,
    check_shape,
    op,
    platform,
    require,
)
from scanmax.ops.conv.conv2d import Padding, Pair, conv2d, conv2d_each


@op("stride", "padding", "dilation", "groups", "precision", "implementation")
def cond_conv2d(
    x: Float[Array, "*B Y X C"],
    kernels: Float[Array, "n ky kx I O"],
    weights: Float[Array, "*B n"],
    biases: Float[Array, "n O"] | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V O"]:
    """Conditionally parameterised convolution: each example has its own mixture of n kernels.

        y_b = x_b * (sum_i weights_bi kernels_i) + sum_i weights_bi biases_i

    It is the mixture of n convolutions at the cost of one. All examples are one grouped
    convolution, with the batch among its groups; a depthwise one where groups = C = O. Without
    groups a CPU takes one product per tap of the kernel, over all examples.

    Args:
      x: the maps.
      kernels: [n, ky, kx, C / groups, O].
      weights: of the kernels, for each example; sigmoids of a linear map of the mean pixel in the
        paper. They need not sum to one.
      biases: of each kernel; None for none.
      stride: as in `conv2d`.
      padding: as in `conv2d`.
      dilation: as in `conv2d`.
      groups: slices of the channels that see only their own slice of x; divides C and O.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, U, V, O] in the dtype of x; the kernels are mixed in at least float32.

    Raises:
      ValueError: an array of the wrong shape, or a malformed option.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> kernels = jnp.array([1.0, 10.0]).reshape(2, 1, 1, 1, 1)
      >>> weights = jnp.array([[1.0, 0.0], [0.5, 0.5]])
      >>> ops.cond_conv2d(jnp.ones((2, 1, 1, 1)), kernels, weights).ravel()
      Array([1. , 5.5], dtype=float32)

    Reference: condconv
    """
    check_rank(3, x=x)
    batch, maps = x.shape[:-3], x.shape[-3:]
    require(
        kernels.ndim == 5,
        f"kernels has shape {kernels.shape}; expected [n, ky, kx, C / groups, O].",
    )
    check_shape("weights", weights, (*batch, len(kernels)), "[*B, n]")
    check_shape("biases", biases, (len(kernels), kernels.shape[-1]), "[n, O]")
    convolve = functools.partial(
        conv2d,
        stride=stride,
        padding=padding,
        dilation=dilation,
        precision=precision,
        implementation=implementation,
    )
    # What does not fit is refused before the batch hides it among the groups.
    one = jax.ShapeDtypeStruct(maps, x.dtype)
    kernel = jax.ShapeDtypeStruct(kernels.shape[1:], kernels.dtype)
    size = jax.eval_shape(functools.partial(convolve, groups=groups), one, kernel).shape
    examples = math.prod(batch)
    if not examples:
        return jnp.zeros((*batch, *size), x.dtype)
    dtype = accumulator_dtype(x, kernels, weights)
    weights = weights.reshape(examples, -1).astype(dtype)
    x = x.reshape(examples, *maps)
    if groups == 1 and platform() == "cpu":
        # A convolution of many groups takes three to eight times as long there.
        kernels = jnp.tensordot(weights, kernels.astype(dtype), 1, precision=precision)
        y = conv2d_each(x, kernels.astype(x.dtype), stride, padding, dilation, precision)
    else:
        mixed = jnp.einsum("bn,nyxio->yxibo", weights, kernels.astype(dtype), precision=precision)
        mixed = mixed.reshape(*mixed.shape[:3], -1).astype(x.dtype)  # [ky, kx, I, B O]
        beside = jnp.moveaxis(x, 0, -2).reshape(*maps[:2], -1)
        y = convolve(beside, mixed, groups=examples * groups)
        y = jnp.moveaxis(y.reshape(*size[:2], examples, size[2]), -2, 0)
    if biases is not None:
        bias = jnp.matmul(weights, biases.astype(dtype), precision=precision)
        y = y + bias.astype(x.dtype)[:, None, None]
    return y.reshape(*batch, *size)

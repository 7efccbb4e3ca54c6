"""Convolutions over one axis or three, by those over two: every lowering is written once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype
from scanmax.ops.conv.conv2d import Padding, conv2d, numbers, outputs_of, zeros_around


def sizes_of(size: int | tuple[int, ...], x: Float[Array, "B ... C"]) -> tuple[int, ...]:
    """A kernel's size along each axis of x between batch and channels."""
    return (size,) * (x.ndim - 2) if isinstance(size, int) else size


def conv_over_axes(
    x: Float[Array, "... C"],
    kernel: Float[Array, "... I O"],
    *,
    stride: int | tuple[int, ...],
    padding: Padding,
    dilation: int | tuple[int, ...],
    **options,
) -> Float[Array, "... O"]:
    """`conv2d` over as many axes before the last as the kernel has: 1, 2 or 3.

    A line is a map of one column; a kernel over three axes is one over two for each of its planes.
    """
    axes = kernel.ndim - 2
    stride, dilation = numbers("stride", stride, axes), numbers("dilation", dilation, axes)
    size, window = x.shape[-1 - axes : -1], kernel.shape[:axes]
    pads = zeros_around(padding, size, window, stride, dilation)
    if axes == 1:
        options |= {"stride": (*stride, 1), "dilation": (*dilation, 1), "padding": (*pads, 0)}
        return conv2d(x[..., None, :], kernel[:, None], **options)[..., 0, :]
    options |= {"stride": stride[-2:], "dilation": dilation[-2:], "padding": pads[-2:]}
    if axes == 2:
        return conv2d(x, kernel, **options)
    x = jnp.pad(x, ((0, 0),) * (x.ndim - 4) + (pads[0], *((0, 0),) * 3))
    (planes,) = outputs_of(x.shape[-4:-3], window[:1], stride[:1], dilation[:1])
    last = (planes - 1) * stride[0] + 1
    y = None
    for i in range(window[0]):
        start = i * dilation[0]
        seen = jax.lax.slice_in_dim(x, start, start + last, stride[0], axis=x.ndim - 4)
        part = conv2d(seen, kernel[i], **options).astype(accumulator_dtype(x))
        y = part if y is None else y + part
    return y.astype(x.dtype)

"""Adaptive frequency filters: a map times weights that it sets itself, frequency by frequency."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require, spread

_AXES = (-3, -2)


@op("threshold", "precision")
def adaptive_frequency_filter(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "2 G I J"],
    bias: Float[Array, "2 G J"],
    out_kernel: Float[Array, "2 G J I"],
    out_bias: Float[Array, "2 G I"],
    *,
    threshold: float = 0.01,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X C"]:
    """Adaptive frequency filter: a small complex network reads the spectrum and masks it.

        y = irfft2(M X),  X = rfft2(x) / sqrt(Y X),  M = shrink(W_2 relu(W_1 X + b_1) + b_2)

    W_1 and W_2 are complex and join the channels of a group; relu and the soft threshold act on
    real and imaginary parts. y is the circular convolution of each channel of x with irfft2(M), a
    kernel as large as the map that depends on the map.

    Args:
      x: the map.
      kernel: real and imaginary part of W_1, for each of G groups of I = C / G channels.
      bias: of b_1.
      out_kernel: of W_2.
      out_bias: of b_2.
      threshold: parts of M below it are zero, the others are smaller by it.
      precision: of the products over channels, as in jax.lax.

    Returns:
      [*B, Y, X, C] in the dtype of x; transforms and products are in at least float32.

    Raises:
      ValueError: when groups do not divide the channels, or an array has the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> zero, one = jnp.zeros((2, 1, 1, 1)), jnp.ones((2, 1, 1)).at[1].set(0.0)
      >>> x = jnp.arange(4.0).reshape(2, 2, 1)
      >>> ops.adaptive_frequency_filter(x, zero, one, zero, one, threshold=0.5)[..., 0]
      Array([[0. , 0.5],
             [1. , 1.5]], dtype=float32)

    Reference: affnet
    """
    check_rank(3, x=x)
    rows, columns, channels = x.shape[-3:]
    require(
        kernel.ndim == 4 and kernel.shape[0] == 2 and kernel.shape[1] * kernel.shape[2] == channels,
        f"kernel has shape {kernel.shape}; expected [2, G, I, J] with G I = {channels} channels.",
    )
    _, groups, inputs, width = kernel.shape
    check_shape("bias", bias, (2, groups, width), "[2, G, J]")
    check_shape("out_kernel", out_kernel, (2, groups, width, inputs), "[2, G, J, I]")
    check_shape("out_bias", out_bias, (2, groups, inputs), "[2, G, I]")
    dtype = accumulator_dtype(x, kernel, out_kernel)
    spectrum = jnp.fft.rfft2(x.astype(dtype), axes=_AXES, norm="ortho")
    split = (*spectrum.shape[:-1], groups, inputs)
    parts = [part.reshape(split) for part in (spectrum.real, spectrum.imag)]
    parts = jnp.concatenate(parts, -1)
    hidden = jax.nn.relu(_complex_dense(parts, kernel, bias, precision))
    mask = _complex_dense(hidden, out_kernel, out_bias, precision)
    mask = jnp.sign(mask) * jax.nn.relu(jnp.abs(mask) - threshold)
    real, imaginary = (part.reshape(spectrum.shape) for part in jnp.split(mask, 2, -1))
    y = jnp.fft.irfft2(
        spectrum * jax.lax.complex(real, imaginary), s=(rows, columns), axes=_AXES, norm="ortho"
    )
    return y.astype(x.dtype)


def _complex_dense(x: Array, kernel: Array, bias: Array, precision) -> Array:
    """A complex linear map of each group, as a real one of [real, imaginary] on the last axis."""
    real, imaginary = kernel.astype(x.dtype)
    rows = [[real, imaginary], [-imaginary, real]]
    matrix = jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)
    y = jnp.einsum("...gi,gij->...gj", x, matrix, precision=precision)
    return y + spread(jnp.concatenate(list(bias.astype(x.dtype)), -1), y)

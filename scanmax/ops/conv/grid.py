"""Convolution over a grid of two sequences that reads the past of one of them: 2-D seq2seq."""

import jax
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, align, check_rank, check_shape, op, require
from scanmax.ops.conv.conv2d import conv2d


@op("dilation", "precision")
def causal_conv2d(
    x: Float[Array, "*B T S C"],
    kernel: Float[Array, "kt ks C O"],
    bias: Float[Array, " O"] | None = None,
    *,
    dilation: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B T S O"]:
    """A convolution that is causal along the first axis of a grid and centred along the second.

        y_ts = sum_ij x_(t - d (kt - 1 - i), s + j - (ks - 1) / 2) kernel_ij + bias

    with zeros from beyond the grid. Where rows are the words of a translation and columns those of
    its source, cell (t, s) reads all of the source nearby and none of the translation after t. The
    released code masks the lower rows of a square kernel of odd side k instead: kt is (k + 1) / 2.

    Args:
      x: the grid, T steps of one sequence by S of the other.
      kernel: its last row meets row t itself; ks is odd.
      bias: of the outputs; None for none.
      dilation: d, of rows alone.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, T, S, O] in the dtype of x.

    Raises:
      ValueError: a kernel of an even ks or for other channels, a bias of another O, or a dilation
        below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
      >>> ops.causal_conv2d(x, jnp.ones((2, 1, 1, 1))).ravel()
      Array([1., 3., 5.], dtype=float32)

    Reference: pervasive-attention
    """
    check_rank(3, x=x)
    require(
        kernel.ndim == 4 and kernel.shape[1] % 2 == 1 and kernel.shape[2] == x.shape[-1],
        f"kernel has shape {kernel.shape}; expected [kt, odd ks, {x.shape[-1]}, O].",
    )
    require(dilation >= 1, f"dilation={dilation}; expected at least 1.")
    check_shape("bias", bias, kernel.shape[-1:], "[O]")
    half = kernel.shape[1] // 2
    padding = ((dilation * (kernel.shape[0] - 1), 0), (half, half))
    y = conv2d(x, kernel, padding=padding, dilation=(dilation, 1), precision=precision)
    if bias is None:
        return y
    dtype = accumulator_dtype(x, bias)
    return (y.astype(dtype) + align(bias.astype(dtype), y)).astype(x.dtype)

"""Mixing of tokens by the Fourier transform alone, without weights."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op


@op("scale")
def fourier_token_mixing(
    x: Float[Array, "*B T D"], *, scale: float | None = None
) -> Float[Array, "*B T D"]:
    """The real part of the Fourier transform over tokens and channels.

        y_td = scale sum_se cos(2 pi (t s / T + d e / D)) x_se

    Every token reads every other, without weights, in the time of T D log(T D).

    Args:
      x: the tokens.
      scale: None is 1 / sqrt(T D), with which the complex transform keeps lengths; 1 is FNet's.

    Returns:
      [*B, T, D] in the dtype of x; the transform is in at least float32.

    Raises:
      ValueError: x of fewer than two axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.fourier_token_mixing(jnp.array([[1.0], [3.0]]), scale=1.0).tolist()
      [[4.0], [-2.0]]

    Reference: fft-conv-scaling
    """
    check_rank(2, x=x)
    z = jnp.fft.fft2(x.astype(accumulator_dtype(x))).real
    scale = 1 / math.sqrt(max(x.shape[-2] * x.shape[-1], 1)) if scale is None else scale
    return (scale * z).astype(x.dtype)

"""Depthwise kernels as long as the map is in both directions: ParCNetV2."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require
from scanmax.ops.conv.long import fft_conv


@op("interpolate")
def oversized_conv2d(
    x: Float[Array, "*B Y X C"],
    column: Float[Array, "K C"],
    row: Float[Array, "L C"],
    *,
    interpolate: bool = True,
) -> Float[Array, "*B Y X C"]:
    """Oversized convolution: a column and then a row of taps so long that every pixel reads all.

        z_uv = sum_i column'_(i - u + Y - 1) x_iv,    y_uv = sum_j row'_(j - v + X - 1) z_uj

    column' and row' have 2 Y - 1 and 2 X - 1 taps, brought there by linear interpolation between
    the first and the last. Zeros lie beyond the edges, so that pixels use different parts of the
    kernel and places can be told apart, which no circular convolution does. Transforms make it
    T log T for T pixels.

    Args:
      x: the map.
      column: taps along Y; odd in number.
      row: taps along X; odd in number.
      interpolate: whether the taps are brought to the size of the map; otherwise they are used as
        they are, middle on middle, as in the released code at the size that they are made for.
        A side of one pixel reads the middle tap.

    Returns:
      [*B, Y, X, C] in the dtype of x; sums are in at least float32.

    Raises:
      ValueError: when column or row is not [K, C] of odd K.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0], [2.0]]])
      >>> ops.oversized_conv2d(x, jnp.ones((3, 1)), jnp.array([[0.0], [1.0], [10.0]]))[..., 0]
      Array([[21.,  2.]], dtype=float32)

    Reference: parcnetv2
    """
    check_rank(3, x=x)
    dtype = accumulator_dtype(x, column, row)
    y = x.astype(dtype)
    for name, taps in (("column", column), ("row", row)):
        require(
            taps.ndim == 2 and taps.shape[0] % 2 == 1 and taps.shape[1] == x.shape[-1],
            f"{name} has shape {taps.shape}; expected [K, C] of odd K with C = {x.shape[-1]}.",
        )
        # Both times the second axis from the end is convolved, and the other takes its place.
        y = jnp.swapaxes(y, -3, -2)
        taps = taps.astype(dtype)
        if interpolate:
            matrix = _between_ends(len(taps), 2 * y.shape[-2] - 1)
            taps = jnp.matmul(jnp.asarray(matrix, dtype), taps)
        y = fft_conv(y, jnp.flip(taps, 0), mode="bidirectional")
    return y.astype(x.dtype)


def _between_ends(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: linear interpolation at even steps from the first place to the last."""
    places = np.linspace(0, size - 1, new_size) if new_size > 1 else np.array([(size - 1) / 2])
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))

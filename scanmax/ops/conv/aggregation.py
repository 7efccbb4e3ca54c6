"""Small kernels that each pixel brings for itself: LSNet's aggregation."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


@op()
def small_kernel_aggregation(
    x: Float[Array, "*B Y X C"], weights: Float[Array, "*B Y X G W"]
) -> Float[Array, "*B Y X C"]:
    """Small-kernel aggregation: every pixel weighs its neighbours by kernels of its own.

        y_c(p) = sum_o weights_{c mod G}(p, o) x_c(p + o),   o over k by k offsets, k = sqrt(W)

    Channel c shares kernel c mod G with the others of that rest, as the released code has it.
    Zeros lie beyond the edges. Time and memory are those of k^2 multiply-adds a channel.

    Args:
      x: the map.
      weights: G kernels for each pixel, rows of the kernel one after another; they are taken as
        they are, without a softmax. G divides C, and k is odd.

    Returns:
      [*B, Y, X, C] in the dtype of x; sums are in at least float32.

    Raises:
      ValueError: when weights is not one of G kernels for each pixel, or W is no odd square.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> weights = jnp.zeros((1, 3, 1, 9)).at[..., 3].set(1.0)
      >>> ops.small_kernel_aggregation(jnp.array([[[1.0], [2.0], [3.0]]]), weights)[..., 0]
      Array([[0., 1., 2.]], dtype=float32)

    Reference: lsnet
    """
    check_rank(3, x=x)
    check_rank(4, weights=weights)
    groups, taps = weights.shape[-2:]
    check_shape("weights", weights, (*x.shape[:-1], groups, taps), "[*B, Y, X, G, W]")
    size, channels = math.isqrt(taps), x.shape[-1]
    require(
        size * size == taps and size % 2 == 1 and groups >= 1 and channels % groups == 0,
        f"weights has shape {weights.shape}: its {groups} kernels must divide the {channels} "
        f"channels of x, and its {taps} taps be those of an odd square.",
    )

    # The gradient takes the shifted maps anew: kept, they are as large as x for every tap.
    @jax.checkpoint
    def mixed(x, weights):
        reach, dtype = size // 2, accumulator_dtype(x, weights)
        rows, columns = x.shape[-3:-1]
        pads = [(0, 0)] * (x.ndim - 3) + [(reach, reach)] * 2 + [(0, 0)]
        padded = jnp.pad(x, pads)
        y = 0
        for tap in range(taps):
            i, j = divmod(tap, size)
            near = padded[..., i : i + rows, j : j + columns, :]
            near = near.reshape(*x.shape[:-1], channels // groups, groups).astype(dtype)
            y = y + near * weights[..., None, :, tap].astype(dtype)
        return y.reshape(x.shape).astype(x.dtype)

    return mixed(x, weights)

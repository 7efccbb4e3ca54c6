"""Convolutions of tokens that are laid out as maps, with kernels that all tokens share."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    op,
    platform,
    require,
)
from scanmax.ops.conv.conv2d import conv2d

# Taps of kernels up to which a CPU copies what each of them sees.
SMALL = 16


@op("padding", "precision")
def shared_conv2d(
    x: Float[Array, "*B T Y X"],
    kernel: Float[Array, "ky kx M"],
    *,
    padding: str = "SAME",
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B T U V M"]:
    """Each token, a map of its channels, convolved by M kernels that are the same for all tokens.

        y_tpm = sum_ij w_ijm x_t(p + (i, j))

    As a depthwise convolution, whose channels are the tokens, it is what a lens computes. With
    "VALID" and kernels as large as the map each gives one number, and M of them are a linear map of
    the channels; with "SAME" each gives a map again.

    Args:
      x: tokens as maps.
      kernel: M kernels.
      padding: "SAME" or "VALID".
      precision: of the products, as in jax.lax.

    Returns:
      [*B, T, U, V, M] in the dtype of x.

    Raises:
      ValueError: arrays of fewer axes, an unknown padding, or a kernel that does not fit into the
        map with "VALID".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> tokens = jnp.arange(8.0).reshape(2, 2, 2)
      >>> ops.shared_conv2d(tokens, jnp.ones((2, 2, 1)), padding="VALID").ravel()
      Array([ 6., 22.], dtype=float32)

    Reference: convsharevit
    """
    check_rank(3, x=x, kernel=kernel)
    check_choice("padding", padding, ("SAME", "VALID"))
    grid, sizes = x.shape[-2:], kernel.shape[:2]
    require(kernel.ndim == 3, f"kernel has shape {kernel.shape}; expected [ky, kx, M].")
    if padding == "SAME" and platform() == "cpu" and math.prod(sizes) <= SMALL:
        return _by_taps(x, kernel.astype(x.dtype), precision)
    if padding == "SAME":
        return conv2d(x[..., None], kernel[:, :, None], precision=precision)
    require(
        all(size <= side for size, side in zip(sizes, grid)),
        f"kernel has shape {kernel.shape}: with padding='VALID' it has to fit into maps of {grid}.",
    )
    if sizes == grid:
        dtype = accumulator_dtype(x, kernel)
        given = (x, kernel.astype(x.dtype))
        options = {"precision": precision, "preferred_element_type": dtype}
        return jnp.einsum("...yx,yxm->...m", *given, **options).astype(x.dtype)[..., None, None, :]
    return conv2d(x[..., None], kernel[:, :, None], padding="VALID", precision=precision)


def _by_taps(x: Array, kernel: Array, precision) -> Array:
    """What each tap sees, one behind the other, times the kernels: on CPUs half of the time."""
    pads = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
    rows, columns = x.shape[-2:]
    wide = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + pads)
    places = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    taps = jnp.stack([wide[..., i : i + rows, j : j + columns] for i, j in places])
    flat = kernel.reshape(len(places), -1)
    options = {"precision": precision, "preferred_element_type": accumulator_dtype(x)}
    return jnp.einsum("k...yx,km->...yxm", taps, flat, **options).astype(x.dtype)

"""Blocks of pixels into channels and back, and the convolution behind it that replaces a stride."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_choice, check_rank, op, require
from scanmax.ops.conv.conv2d import Padding, conv2d

BLOCK_ORDERS = ("columns", "rows")


def _check(x, block_size: int, block_order: str) -> None:
    check_rank(3, x=x)
    check_choice("block_order", block_order, BLOCK_ORDERS)
    require(block_size >= 1, f"block_size={block_size}; expected at least 1.")


@op("block_size", "block_order")
def space_to_depth(
    x: Float[Array, "*B Y X C"], block_size: int = 2, *, block_order: str = "columns"
) -> Float[Array, "*B U V D"]:
    """Blocks of b by b pixels as pixels of b^2 C channels; nothing is lost.

        y[u, v, (j, i, c)] = x[u b + i, v b + j, c]     "columns"
        y[u, v, (i, j, c)] = x[u b + i, v b + j, c]     "rows"

    Args:
      x: the map.
      block_size: b; divides Y and X.
      block_order: "columns" runs down the columns of a block, as the paper and its code do; "rows"
        along its rows, as `patchify`, timm and TensorFlow do.

    Returns:
      [*B, Y / b, X / b, b^2 C]; `depth_to_space` is its inverse.

    Raises:
      ValueError: when block_size does not divide the map, or block_order is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.space_to_depth(jnp.arange(4.0).reshape(2, 2, 1))
      Array([[[0., 2., 1., 3.]]], dtype=float32)

    Reference: spd-conv
    """
    _check(x, block_size, block_order)
    *batch, rows, columns, channels = x.shape
    require(
        rows % block_size == 0 and columns % block_size == 0,
        f"x has shape {x.shape}; block_size={block_size} must divide its rows and columns.",
    )
    blocks = (rows // block_size, block_size, columns // block_size, block_size)
    y = x.reshape(*batch, *blocks, channels)
    y = jnp.moveaxis(y, -4, -3 if block_order == "rows" else -2)
    return y.reshape(*y.shape[:-3], block_size**2 * channels)


@op("block_size", "block_order")
def depth_to_space(
    x: Float[Array, "*B U V D"], block_size: int = 2, *, block_order: str = "columns"
) -> Float[Array, "*B Y X C"]:
    """Channels as blocks of b by b pixels: the inverse of `space_to_depth`.

        y[u b + i, v b + j, c] = x[u, v, (j, i, c)]     "columns"
        y[u b + i, v b + j, c] = x[u, v, (i, j, c)]     "rows"

    Args:
      x: the map.
      block_size: b; b^2 divides D.
      block_order: "columns" or "rows", as in `space_to_depth`.

    Returns:
      [*B, U b, V b, D / b^2].

    Raises:
      ValueError: when block_size^2 does not divide the channels, or block_order is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.depth_to_space(jnp.array([[[0.0, 2.0, 1.0, 3.0]]]))[..., 0]
      Array([[0., 1.],
             [2., 3.]], dtype=float32)

    Reference: spd-conv
    """
    _check(x, block_size, block_order)
    *batch, rows, columns, channels = x.shape
    require(
        channels % block_size**2 == 0,
        f"x has shape {x.shape}; block_size={block_size} squared must divide its channels.",
    )
    y = x.reshape(*batch, rows, columns, block_size, block_size, channels // block_size**2)
    y = jnp.moveaxis(y, -3 if block_order == "rows" else -2, -4)
    return y.reshape(*batch, rows * block_size, columns * block_size, y.shape[-1])


@op("block_size", "block_order", "padding", "precision", "implementation")
def spd_conv(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx D O"],
    *,
    block_size: int = 2,
    block_order: str = "columns",
    padding: Padding = "SAME",
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V O"]:
    """Space to depth and a convolution without stride, in the place of one with stride b.

        y = conv2d(space_to_depth(x, b), kernel)

    Any convolution of stride b is such a one: its kernel of k taps becomes one of ceil(k / b) or
    one more, whose taps lie in the block's channels.

    Args:
      x: the map.
      kernel: [ky, kx, b^2 C, O].
      block_size: b; divides Y and X.
      block_order: "columns" or "rows", as in `space_to_depth`.
      padding: of the convolution, as in `conv2d`.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, Y / b, X / b, O] with padding "SAME", in the dtype of x.

    Raises:
      ValueError: when block_size does not divide the map, or kernel does not fit its channels.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.spd_conv(jnp.ones((4, 4, 1)), jnp.ones((3, 3, 4, 1)))[..., 0]
      Array([[16., 16.],
             [16., 16.]], dtype=float32)

    Reference: spd-conv
    """
    blocks = space_to_depth(x, block_size, block_order=block_order)
    return conv2d(
        blocks, kernel, padding=padding, precision=precision, implementation=implementation
    )

"""Linear maps over the places of a block of a map, or over those of a dilated grid: MAXIM."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_grid, check_rank, check_shape, op


def _mix(x, kernel, bias, size, precision, blocks: bool) -> Array:
    """The map over the places of each block of `size`, or of each grid of `size`."""
    check_rank(3, x=x)
    name = "block_size" if blocks else "grid_size"
    check_grid(name, size)
    places = math.prod(size)
    check_shape("kernel", kernel, (places, places), "[P, P]")
    check_shape("bias", bias, (places,), "[P]")
    *batch, rows, columns, channels = x.shape
    dtype = accumulator_dtype(x, kernel, bias)
    # As many blocks, or as large cells of the grid, as cover the map.
    down, right = -(-rows // size[0]), -(-columns // size[1])
    more = [(0, 0)] * len(batch)
    more += [(0, down * size[0] - rows), (0, right * size[1] - columns), (0, 0)]
    cut = (down, size[0], right, size[1]) if blocks else (size[0], down, size[1], right)
    z = jnp.pad(x, more).reshape(*batch, *cut, channels)
    weights = kernel.reshape(*size, *size).astype(x.dtype)
    letters = "...iyjxc,yxuv->...iujvc" if blocks else "...yixjc,yxuv->...uivjc"
    z = jnp.einsum(letters, z, weights, precision=precision)
    if bias is not None:
        own = (1, size[0], 1, size[1], 1) if blocks else (size[0], 1, size[1], 1, 1)
        z = z.astype(dtype) + bias.astype(dtype).reshape((1,) * len(batch) + own)
    z = z.reshape(*batch, down * size[0], right * size[1], channels)
    return z[..., :rows, :columns, :].astype(x.dtype)


@op("block_size", "precision")
def block_mix(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "P P"],
    bias: Float[Array, " P"] | None = None,
    *,
    block_size: tuple[int, int],
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X C"]:
    """A linear map over the places of each block of b_y by b_x pixels, one for all channels.

        y_(i b + q) = sum_p kernel_pq x_(i b + p) + bias_q

    p and q run over the P = b_y b_x places of a block, row after row, i over blocks. It is local,
    and its cost is linear in the pixels. A map that is not of whole blocks is continued by zeros,
    and what falls on these is left out.

    Args:
      x: the map.
      kernel: from place to place.
      bias: of each place; None leaves it out.
      block_size: b, rows and columns of a block.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: a block_size that is no pair of positive integers, or arrays that do not fit it.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> ops.block_mix(jnp.arange(4.0).reshape(1, 4, 1), swap, block_size=(1, 2)).ravel()
      Array([1., 0., 3., 2.], dtype=float32)

    Reference: maxim
    """
    return _mix(x, kernel, bias, block_size, precision, blocks=True)


@op("grid_size", "precision")
def grid_mix(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "P P"],
    bias: Float[Array, " P"] | None = None,
    *,
    grid_size: tuple[int, int],
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X C"]:
    """A linear map over grids of g_y by g_x pixels that span the whole map, one for all channels.

        y_(q s + i) = sum_p kernel_pq x_(p s + i) + bias_q,   s = ceil((Y, X) / g)

    The map is cut into g_y by g_x cells of s pixels; p and q run over the P = g_y g_x cells, row
    after row, i over the pixels of a cell. It reaches over the map in strides of s, and its cost is
    linear in the pixels. A map that is not of whole cells is continued by zeros, and what falls on
    these is left out.

    Args:
      x: the map.
      kernel: from cell to cell.
      bias: of each cell; None leaves it out.
      grid_size: g, rows and columns of the grid.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: a grid_size that is no pair of positive integers, or arrays that do not fit it.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> ops.grid_mix(jnp.arange(4.0).reshape(1, 4, 1), swap, grid_size=(1, 2)).ravel()
      Array([2., 3., 0., 1.], dtype=float32)

    Reference: maxim
    """
    return _mix(x, kernel, bias, grid_size, precision, blocks=False)

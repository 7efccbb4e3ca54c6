"""The Haar wavelet transform of maps, of several levels, and its exact inverse."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_grid, check_rank, check_shape, op, require
from scanmax.ops.conv.space_to_depth import depth_to_space, space_to_depth

# Sums and differences of a block's pixels (0, 0), (0, 1), (1, 0), (1, 1), each half of them.
_SIGNS = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))


@op("levels")
def haar_dwt2(x: Float[Array, "*B Y X C"], *, levels: int = 1):
    """The Haar wavelet transform of a map: averages of blocks, and differences at each level.

        low  = (x_00 + x_01 + x_10 + x_11) / 2      LH = (x_00 + x_01 - x_10 - x_11) / 2
        HL   = (x_00 - x_01 + x_10 - x_11) / 2      HH = (x_00 - x_01 - x_10 + x_11) / 2

    of every block of 2 by 2 pixels; the next level transforms low. The transform is orthonormal.
    An odd map is continued by a row or column of zeros.

    Args:
      x: the map.
      levels: how often; at least once.

    Returns:
      (low [*B, U, V, C], details), with U = ceil(Y / 2^levels). details has one array for each
      level, finest first, [*B, ceil(Y / 2), ceil(X / 2), C, 3] of LH (differences along Y), HL
      (along X), HH. All are in the dtype of x; sums are in at least float32.

    Raises:
      ValueError: when levels is not positive, or x has fewer than three axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> low, details = ops.haar_dwt2(jnp.array([[1.0, 3.0], [5.0, 7.0]])[..., None])
      >>> low.ravel(), details[0].ravel()
      (Array([8.], dtype=float32), Array([-4., -2.,  0.], dtype=float32))

    Reference: wavemix
    """
    check_rank(3, x=x)
    require(levels >= 1, f"levels={levels}; expected at least 1.")
    low, details = x.astype(accumulator_dtype(x)), []
    for _ in range(levels):
        odd = [(0, n % 2) for n in low.shape[-3:-1]]
        low = jnp.pad(low, [(0, 0)] * (low.ndim - 3) + [*odd, (0, 0)])
        blocks = space_to_depth(low, block_order="rows")
        low, *bands = _combined(jnp.split(blocks, 4, -1))
        details.append(jnp.stack(bands, -1).astype(x.dtype))
    return low.astype(x.dtype), tuple(details)


@op("grid")
def haar_idwt2(
    low: Float[Array, "*B U V C"],
    details: Sequence[Float[Array, "*B _ _ C 3"]],
    *,
    grid: tuple[int, int] | None = None,
) -> Float[Array, "*B Y X C"]:
    """The inverse of `haar_dwt2`: the map from its averages and differences.

        x_00 = (low + LH + HL + HH) / 2             x_01 = (low + LH - HL - HH) / 2
        x_10 = (low - LH + HL - HH) / 2             x_11 = (low - LH - HL + HH) / 2

    from the coarsest level to the finest. What the transform added to odd maps is cut off.

    Args:
      low: averages of the coarsest level.
      details: differences of each level, finest first, as `haar_dwt2` gives them.
      grid: (Y, X) of the map; None is twice the finest level. An odd one is told here.

    Returns:
      [*B, Y, X, C] in the dtype of low; sums are in at least float32.

    Raises:
      ValueError: when the sizes of low, details and grid are not those of a transform.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(15.0).reshape(3, 5, 1)
      >>> float(abs(ops.haar_idwt2(*ops.haar_dwt2(x, levels=2), grid=(3, 5)) - x).max())
      0.0

    Reference: wavemix
    """
    check_rank(3, low=low)
    require(len(details) >= 1, "details is empty; expected one array for each level.")
    finest = details[0].shape[-4:-2] if details[0].ndim >= 4 else (0, 0)
    grid = (2 * finest[0], 2 * finest[1]) if grid is None else grid
    check_grid("grid", grid)
    sizes = [grid]
    for detail in details:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
        expected = (*low.shape[:-3], *sizes[-1], low.shape[-1], 3)
        check_shape("details", detail, expected, "[*B, ceil(Y / 2), ceil(X / 2), C, 3]")
    check_shape("low", low, (*low.shape[:-3], *sizes[-1], low.shape[-1]), "[*B, U, V, C]")
    dtype = accumulator_dtype(low, *details)
    y = low.astype(dtype)
    for detail, (rows, columns) in zip(reversed(details), reversed(sizes[:-1])):
        bands = [detail[..., i].astype(dtype) for i in range(3)]
        # The signs are a symmetric matrix, and half of it its own inverse.
        y = depth_to_space(jnp.concatenate(_combined([y, *bands]), -1), block_order="rows")
        y = y[..., :rows, :columns, :]
    return y.astype(low.dtype)


def _combined(parts: Sequence[Array]) -> list[Array]:
    """Half of the sums and differences of four arrays."""
    first, *rest = parts
    sums = []
    for _, *signs in _SIGNS:
        total = first
        for sign, part in zip(signs, rest):
            total = total + part if sign > 0 else total - part
        sums.append(total * 0.5)
    return sums

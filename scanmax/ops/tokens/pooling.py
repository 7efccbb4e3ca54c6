"""Average pooling of maps to a given size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require


@functools.cache
def pooling_matrix(length: int, size: int) -> np.ndarray:
    """[size, length]: row i averages floor(i length / size) up to ceil((i + 1) length / size)."""
    matrix = np.zeros((size, length))
    for i in range(size):
        first, last = i * length // size, -(-(i + 1) * length // size)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


@op("size")
def adaptive_avg_pool2d(
    x: Float[Array, "*B Y X C"], size: tuple[int, int]
) -> Float[Array, "*B y x C"]:
    """Average pooling to a given size, whatever the map's: torch's adaptive pooling.

        y_i = mean of x_j for floor(i Y / y) <= j < ceil((i + 1) Y / y),  in each axis

    Neighbouring windows share a row where the size does not divide the map, and a map smaller than
    the size is repeated.

    Args:
      x: [*B, Y, X, C].
      size: rows and columns of the result.

    Returns:
      [*B, y, x, C] in the dtype of x.

    Raises:
      ValueError: a size that is not positive, or too few axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.adaptive_avg_pool2d(jnp.arange(6.0).reshape(2, 3, 1), (1, 2))[..., 0]
      Array([[2., 3.]], dtype=float32)

    Reference: glmix
    """
    check_rank(3, x=x)
    require(
        len(size) == 2 and min(size) >= 1, f"size={size}; expected two positive numbers: (y, x)."
    )
    Y, X, C = x.shape[-3:]
    y = x.astype(accumulator_dtype(x))
    if Y % size[0] == 0 and X % size[1] == 0:
        cells = (size[0], Y // size[0], size[1], X // size[1], C)
        y = jnp.mean(y.reshape(*x.shape[:-3], *cells), axis=(-4, -2))
    else:
        rows, columns = (jnp.asarray(pooling_matrix(*pair), y.dtype) for pair in zip((Y, X), size))
        exact = {"precision": jax.lax.Precision.HIGHEST}
        y = jnp.einsum("py,...yxc->...pxc", rows, y, **exact)
        y = jnp.einsum("qx,...pxc->...pqc", columns, y, **exact)
    return y.astype(x.dtype)

"""What the bodies of Pallas kernels for TPUs are made of: matrices alone, which the chip lowers."""

import math

import jax.numpy as jnp
from jax import lax


def dot(x, y, contract=(1, 0), precision=None):
    """The product in float32 that sums over one axis of x and one of y."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def places(size):
    """Row and column of each entry of a [size, size] matrix."""
    shape = (size, size)
    return lax.broadcasted_iota(jnp.int32, shape, 0), lax.broadcasted_iota(jnp.int32, shape, 1)


def column(row):
    """[1, c] -> [c, 1]."""
    i, j = places(row.shape[1])
    return jnp.sum(jnp.where(i == j, row, 0.0), 1, keepdims=True)


def row(column):
    """[c, 1] -> [1, c]."""
    i, j = places(column.shape[0])
    return jnp.sum(jnp.where(i == j, column, 0.0), 0, keepdims=True)


def one_row(x, place):
    """Row `place` of x, [1, X]."""
    i = lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.sum(jnp.where(i == place, x, 0.0), 0, keepdims=True)


def summed(mask, x):
    """mask x in float32 for a mask of rows and columns: sums of rows of x, exact to rounding."""
    return dot(mask.astype(jnp.float32), x, precision=lax.Precision.HIGHEST)


def row_bytes(shape, dtype) -> int:
    """What an array takes of the chip's memory, whose rows are multiples of 128 wide."""
    *lead, width = shape
    return math.prod(lead) * (width + -width % 128) * jnp.dtype(dtype).itemsize

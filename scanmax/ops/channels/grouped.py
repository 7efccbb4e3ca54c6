"""Rows in groups, each times its group's matrix: a ragged product, and its form for CPUs."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from scanmax.ops.contract import accumulator_dtype, platform

# Rows of a block on a CPU, at most and at least; between these, half of what a group has.
MOST_ROWS, LEAST_ROWS = 256, 16


def block_rows(rows: int, groups: int) -> int:
    """Rows that meet a matrix at once; a group's last block is half empty on average."""
    share = max(rows // (2 * groups), 1)
    return min(max(1 << (share.bit_length() - 1), LEAST_ROWS), MOST_ROWS)


def _over_blocks(counts, size: int, body, initial):
    """Calls body(group, first row, which rows are the group's, carry) for each block in order."""
    counts = counts.astype(jnp.int32)
    blocks = -(-counts // size)
    ends, last = (jnp.cumsum(x, dtype=jnp.int32) for x in (counts, blocks))
    places = jnp.arange(size, dtype=jnp.int32)

    def block(i, carry):
        group = jnp.searchsorted(last, i, side="right").astype(jnp.int32)
        start = ends[group] - counts[group] + (i - last[group] + blocks[group]) * size
        return body(group, start, (start + places < ends[group])[:, None], carry)

    return lax.fori_loop(jnp.int32(0), last[-1], block, initial)


def _room(rows, size: int):
    """The rows, and zeros for a last block that is not full."""
    return jnp.pad(rows, ((0, size), (0, 0)))


def _block_product(z, kernel, counts, precision, transposed=False):
    """The product block by block: XLA's own for CPUs multiplies all rows with every matrix."""
    size = block_rows(len(z), len(kernel))
    rows, width = _room(z, size), kernel.shape[-2 if transposed else -1]

    def body(group, start, own, y):
        matrix = kernel[group].T if transposed else kernel[group]
        product = jnp.dot(lax.dynamic_slice_in_dim(rows, start, size), matrix, precision=precision)
        # What is of later groups is written again, by their own blocks.
        return lax.dynamic_update_slice_in_dim(y, product.astype(y.dtype), start, 0)

    return _over_blocks(counts, size, body, jnp.zeros((len(rows), width), z.dtype))[: len(z)]


def _block_gradient(z, cotangent, kernel, counts, precision):
    """The gradient of the matrices: sums over the blocks of each group."""
    size = block_rows(len(z), len(kernel))
    rows, others = _room(z, size), _room(cotangent, size)
    dtype = accumulator_dtype(z, kernel)

    def body(group, start, own, total):
        taken = jnp.where(own, lax.dynamic_slice_in_dim(rows, start, size), 0)
        other = lax.dynamic_slice_in_dim(others, start, size)
        product = jnp.dot(taken.T, other, precision=precision, preferred_element_type=dtype)
        return total.at[group].add(product)

    total = _over_blocks(counts, size, body, jnp.zeros(kernel.shape, dtype))
    return total.astype(kernel.dtype)


def _product(z, kernel, counts, precision, blocks):
    if blocks:
        return _block_product(z, kernel, counts, precision)
    return lax.ragged_dot(z, kernel, counts, precision=precision)


def _pull_back(z, kernel, counts, cotangent, precision, blocks):
    if blocks:
        return (
            _block_product(cotangent, kernel, counts, precision, transposed=True),
            _block_gradient(z, cotangent, kernel, counts, precision),
        )

    def product(z, kernel):
        return _product(z, kernel, counts, precision, blocks)

    return jax.vjp(product, z, kernel)[1](cotangent)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _grouped(z, kernel, counts, precision, blocks):
    # JAX has no vmap of ragged_dot over kernels; this has.
    product = functools.partial(_product, precision=precision, blocks=blocks)
    return sequential_vmap(product)(z, kernel, counts)


def _forward(z, kernel, counts, precision, blocks):
    return _grouped(z, kernel, counts, precision, blocks), (z, kernel, counts)


def _backward(precision, blocks, kept, cotangent):
    pull_back = functools.partial(_pull_back, precision=precision, blocks=blocks)
    return *sequential_vmap(pull_back)(*kept, cotangent), None


_grouped.defvjp(_forward, _backward)


def grouped_product(z, kernel, counts, *, precision=None, form: str | None = None):
    """Rows of z times the matrix of their group, [N, F] in z's dtype.

    Args:
      z: [N, D], the first group's rows first; all belong to a group.
      kernel: [E, D, F] of the dtype of z.
      counts: [E] integers, rows of each group.
      precision: as in jax.lax.
      form: "ragged" is `jax.lax.ragged_dot`, a kernel on accelerators; "blocks" a loop over blocks
        of rows of one group. None takes blocks on CPUs.
    """
    blocks = form == "blocks" if form else platform() == "cpu"
    return _grouped(z, kernel, counts, precision, blocks)

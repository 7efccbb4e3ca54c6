"""The Haar wavelet transform, as products with its matrix along both axes."""

import jax.numpy as jnp
import numpy as np


def _matrix(size, dtype):
    """[2, ceil(size / 2), size]: sums and differences of neighbours, over the root of 2."""
    half = -(-size // 2)
    matrix = np.zeros((2, half, 2 * half))
    for u in range(half):
        matrix[0, u, 2 * u : 2 * u + 2] = np.sqrt(0.5)
        matrix[1, u, 2 * u : 2 * u + 2] = np.sqrt(0.5), -np.sqrt(0.5)
    return jnp.asarray(matrix[..., :size], dtype)


def haar_dwt2(x, *, levels=1):
    """Bands (a, b) = W_a x W_b^T, sums (0) or differences (1) along rows and columns."""
    details = []
    for _ in range(levels):
        down, across = (_matrix(size, x.dtype) for size in x.shape[-3:-1])
        bands = jnp.einsum("auy,bvx,...yxc->...uvcab", down, across, x)
        x = bands[..., 0, 0]
        details.append(jnp.stack([bands[..., 1, 0], bands[..., 0, 1], bands[..., 1, 1]], -1))
    return x, tuple(details)


def haar_idwt2(low, details, *, grid=None):
    """x = sum_ab W_a^T band_ab W_b: the transposes, since the matrix is orthonormal."""
    grid = tuple(2 * n for n in details[0].shape[-4:-2]) if grid is None else grid
    sizes = [grid, *[detail.shape[-4:-2] for detail in details[:-1]]]
    for detail, size in zip(reversed(details), reversed(sizes)):
        down, across = (_matrix(n, low.dtype) for n in size)
        rows = jnp.stack([low, detail[..., 1]], -1)
        other = jnp.stack([detail[..., 0], detail[..., 2]], -1)
        bands = jnp.stack([rows, other], -2)  # [*B, U, V, C, 2, 2]
        low = jnp.einsum("auy,bvx,...uvcab->...yxc", down, across, bands)
    return low

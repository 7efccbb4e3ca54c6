"""Large-kernel convolution as attention: one pair of pixels after the other."""

import jax.numpy as jnp


def lkca_matrix(kernel, grid):
    """A_pq = kernel[centre + q - p], 0 outside of the kernel."""
    (Y, X), (ky, kx) = grid, kernel.shape[:2]
    flat = kernel.reshape(ky, kx, -1)
    zero = jnp.zeros_like(flat[0, 0])
    pixels = [(y, x) for y in range(Y) for x in range(X)]

    def weight(p, q):
        i, j = ky // 2 + q[0] - p[0], kx // 2 + q[1] - p[1]
        return flat[i, j] if 0 <= i < ky and 0 <= j < kx else zero

    matrix = jnp.stack([jnp.stack([weight(p, q) for q in pixels]) for p in pixels])
    return jnp.moveaxis(matrix, -1, 0)


def lkca(value, kernel, *, precision=None):
    """y = A v."""
    *batch, Y, X, H, V = value.shape
    kernel = kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim))
    kernel = jnp.broadcast_to(kernel, (*kernel.shape[:2], H, V))
    matrix = lkca_matrix(kernel, (Y, X)).reshape(H, V, Y * X, Y * X)
    y = jnp.einsum("hvts,...shv->...thv", matrix, value.reshape(*batch, Y * X, H, V))
    return y.reshape(value.shape)

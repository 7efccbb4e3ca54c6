"""The transposed convolution, as what every tap writes."""

import jax.numpy as jnp


def conv_transpose2d(x, kernel, *, stride=2, padding=0, precision=None):
    """y[u s + i - p, v s + j - p] += x[u, v] kernel[i, j]."""
    (rows, columns), size = x.shape[-3:-1], len(kernel)
    shape = ((rows - 1) * stride + size, (columns - 1) * stride + size, kernel.shape[-1])
    y = jnp.zeros((*x.shape[:-3], *shape), x.dtype)
    u, v = stride * jnp.arange(rows)[:, None], stride * jnp.arange(columns)[None]
    for i in range(size):
        for j in range(size):
            written = jnp.matmul(x, kernel[i, j], precision=precision)
            y = y.at[..., u + i, v + j, :].add(written)
    return y[..., padding : shape[0] - padding, padding : shape[1] - padding, :]

"""Average pooling, window by window."""

import jax.numpy as jnp


def adaptive_avg_pool2d(x, size):
    """The mean of each of size[0] by size[1] windows, which overlap where they do not divide."""
    Y, X = x.shape[-3:-1]
    rows = []
    for i in range(size[0]):
        ys = slice(i * Y // size[0], -(-(i + 1) * Y // size[0]))
        row = []
        for j in range(size[1]):
            xs = slice(j * X // size[1], -(-(j + 1) * X // size[1]))
            row.append(jnp.mean(x[..., ys, xs, :], axis=(-3, -2)))
        rows.append(jnp.stack(row, axis=-2))
    return jnp.stack(rows, axis=-3)

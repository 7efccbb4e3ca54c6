"""Deformable attention as sums over all pixels, weighed by how near each is."""

import jax
import jax.numpy as jnp


def deformable_attention(values, locations, weights, *, level_shapes):
    """A pixel counts 1 less its distance to the place, in rows times in columns, down to 0."""
    y, first = 0.0, 0
    for level, (rows, columns) in enumerate(level_shapes):
        pixels = values[..., first : first + rows * columns, :, :]
        pixels = pixels.reshape(*values.shape[:-3], rows, columns, *values.shape[-2:])
        first += rows * columns
        place = locations[..., level, :, :]  # [*B, T, H, P, 2]
        above = place[..., 0] * rows - 0.5
        along = place[..., 1] * columns - 0.5
        by_row = jnp.stack([jax.nn.relu(1 - jnp.abs(above - row)) for row in range(rows)], -1)
        by_column = jnp.stack([jax.nn.relu(1 - jnp.abs(along - at)) for at in range(columns)], -1)
        y = y + jnp.einsum(
            "...thp,...thpr,...thpc,...rchv->...thv",
            weights[..., level, :],
            by_row,
            by_column,
            pixels,
        )
    return y

"""Maps made larger by a whole factor: pixels between pixels, or out of channels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def bilinear_upsample(x: Float[Array, "B Y X C"], factor: int) -> Float[Array, "B U V C"]:
    """A map of `factor` times as many rows and columns, read between its pixels' middles.

    What `jax.image.resize` by "bilinear" and torch without aligned corners give, as one sum of two
    neighbours for each place between pixels: no matrix of the map's size.

    Args:
      x: the map.
      factor: a whole number, 1 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.models.parts.upsample import bilinear_upsample
      >>> bilinear_upsample(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), 2)[0, 0, :, 0]
      Array([0., 1., 3., 4.], dtype=float32)
    """
    for axis in (1, 2):
        # Beyond the edge lies the edge's pixel again.
        ends = [(1, 1) if index == axis else (0, 0) for index in range(x.ndim)]
        padded, side = jnp.pad(x, ends, mode="edge"), x.shape[axis]
        between = []
        for index in range(factor):
            place = (index + 0.5) / factor - 0.5
            first, share = math.floor(place), place - math.floor(place)
            before, behind = (
                jax.lax.slice_in_dim(padded, 1 + start, 1 + start + side, axis=axis)
                for start in (first, first + 1)
            )
            between.append((1 - share) * before + share * behind)
        shape = (*x.shape[:axis], side * factor, *x.shape[axis + 1 :])
        x = jnp.stack(between, axis + 1).reshape(shape)
    return x


def pixel_shuffle(x: Float[Array, "B Y X D"], factor: int) -> Float[Array, "B U V C"]:
    """A map of `factor` times as many rows and columns, made of factor^2 channels each.

    In torch's order, y[u r + i, v r + j, c] = x[u, v, c r^2 + i r + j], where `depth_to_space` has
    each place's channels side by side.

    Args:
      x: the map; factor^2 divides its channels.
      factor: r.
    """
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows, columns, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, rows * factor, columns * factor, -1)

"""Deformable attention: each query reads a few places between pixels, of maps at several scales."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_grid,
    check_rank,
    check_shape,
    op,
    require,
)


@op("level_shapes")
def deformable_attention(
    values: Float[Array, "*B S H V"],
    locations: Float[Array, "*B T H L P 2"],
    weights: Float[Array, "*B T H L P"],
    *,
    level_shapes: tuple[tuple[int, int], ...],
) -> Float[Array, "*B T H V"]:
    """Weighed sums of values read between the pixels of maps at several scales.

        y_th = sum_lp weights_thlp value_lh(locations_thlp)

    value_lh(y, x) is linear between the four nearest pixels of level l, zeros lie beyond its edges.
    Pixel (r, c) of a map of Y by X has its middle at ((r + 1/2) / Y, (c + 1/2) / X), so that a
    location means the same place at every level. Pixels are gathered point by point: memory grows
    with T + S, also backwards, and no more is kept for more points.

    Args:
      values: the pixels of all levels, one level behind the other, row after row.
      locations: row and column as fractions of the map; beyond 0 to 1 they lie outside.
      weights: of each point; a softmax over the L P of a head in the papers.
      level_shapes: (Y, X) of each level.

    Returns:
      [*B, T, H, V] in the dtype of values.

    Raises:
      ValueError: arrays that do not fit each other, or level_shapes that do not have S pixels.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> values = jnp.array([1.0, 3.0])[:, None, None]  # a map of 1 by 2
      >>> between = jnp.array([0.5, 0.5]).reshape(1, 1, 1, 1, 2)
      >>> ops.deformable_attention(
      ...     values, between, jnp.ones((1, 1, 1, 1)), level_shapes=((1, 2),)
      ... ).item()
      2.0

    Reference: vit-comer
    """
    check_rank(3, values=values)
    check_rank(5, locations=locations)
    for shape in level_shapes:
        check_grid("level_shapes", shape)
    *batch, pixels, heads, _ = values.shape
    sizes = [rows * columns for rows, columns in level_shapes]
    require(
        sum(sizes) == pixels,
        f"level_shapes={level_shapes} have {sum(sizes)} pixels; values of shape {values.shape} "
        f"have {pixels}.",
    )
    length, points = locations.shape[-5], locations.shape[-2]
    expected = (*batch, length, heads, len(level_shapes), points)
    check_shape("locations", locations, (*expected, 2), "[*B, T, H, L, P, 2]")
    check_shape("weights", weights, expected, "[*B, T, H, L, P]")
    # Locations may be more precise than half precision values.
    dtype = accumulator_dtype(values)
    places = jnp.moveaxis(locations.astype(dtype), -2, 0)  # [P, *B, T, H, L, 2]
    shares = jnp.moveaxis(weights.astype(dtype), -1, 0)
    total = jnp.zeros((*batch, length, heads, values.shape[-1]), dtype)
    first = 0
    for level, (shape, size) in enumerate(zip(level_shapes, sizes)):
        maps = jnp.moveaxis(values[..., first : first + size, :, :], -2, -3)  # [*B, H, S_l, V]
        first += size

        # Recomputed backwards: four pixels a query and point would be kept.
        @jax.checkpoint
        def point(total, at, maps=maps, shape=shape):
            place, share = at
            return total + share[..., None] * _between(maps, place, shape, dtype), None

        total, _ = jax.lax.scan(point, total, (places[..., level, :], shares[..., level]))
    return total.astype(values.dtype)


def _between(maps, place, shape, dtype):
    """Of maps [*B, H, S, V] what lies at places [*B, T, H, 2]: [*B, T, H, V]."""
    read = lambda pixels, index: pixels.at[index].get(mode="promise_in_bounds")  # noqa: E731
    for _ in maps.shape[:-2]:
        read = jax.vmap(read)
    # Counted in pixels, from the middle of the first; [*B, H, T].
    middles = [
        jnp.swapaxes(place[..., axis], -1, -2) * size - 0.5 for axis, size in enumerate(shape)
    ]
    lows = [jnp.floor(middle) for middle in middles]
    total = 0.0
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        index, share = 0, 1.0
        for size, middle, low, step in zip(shape, middles, lows, corner):
            near, beyond = low + step, middle - low
            inside = (near >= 0) & (near <= size - 1)
            share = share * jnp.where(inside, beyond if step else 1 - beyond, 0)
            index = index * size + jnp.clip(near, 0, size - 1).astype(jnp.int32)
        total = total + share[..., None] * read(maps, index).astype(dtype)
    return jnp.swapaxes(total, -2, -3)

"""Maps as sequences in several directions, pixel by pixel."""

import jax.numpy as jnp
import numpy as np


def _pixels(name, height, width):
    """The pixels (y, x) in the order of the direction."""
    if name.startswith("rows"):
        order = [(y, x) for y in range(height) for x in range(width)]
    else:
        order = [(y, x) for x in range(width) for y in range(height)]
    return order[::-1] if name.endswith("reversed") else order


def _names(directions):
    if not isinstance(directions, int):
        return directions
    return {
        1: ("rows",),
        2: ("rows", "rows_reversed"),
        4: ("rows", "columns", "rows_reversed", "columns_reversed"),
    }[directions]


def cross_scan(x, *, directions=4):
    """y[r, t] = x[the pixel at place t of direction r]."""
    sequences = [
        jnp.stack([x[..., i, j, :] for i, j in _pixels(name, *x.shape[-3:-1])], -2)
        for name in _names(directions)
    ]
    return jnp.stack(sequences, -3)


def cross_merge(y, grid, *, directions=None):
    """z[p] = the sum over r of y[r, the place of pixel p in direction r]."""
    names = _names(y.shape[-3] if directions is None else directions)
    z = jnp.zeros((*y.shape[:-3], *grid, y.shape[-1]), y.dtype)
    for r, name in enumerate(names):
        for t, (i, j) in enumerate(_pixels(name, *grid)):
            z = z.at[..., i, j, :].add(y[..., r, t, :])
    return z


def multi_scale_scan(x, small):
    """The map by rows; the small one by rows reversed, columns, columns reversed."""
    names = ("rows_reversed", "columns", "columns_reversed")
    return cross_scan(x, directions=1)[..., 0, :, :], cross_scan(small, directions=names)


def multi_scale_merge(full, small, grid, small_grid):
    """z = map(full) + enlarge(sum of the small maps), bilinear between the pixels' centres."""
    names = ("rows_reversed", "columns", "columns_reversed")
    maps = cross_merge(small, small_grid, directions=names)
    for axis, (size, count) in enumerate(zip(small_grid, grid)):
        weights = np.zeros((count, size))
        for i in range(count):
            place = np.clip((i + 0.5) * size / count - 0.5, 0, size - 1)
            low = int(np.floor(place))
            weights[i, low] += 1 - (place - low)
            weights[i, min(low + 1, size - 1)] += place - low
        rows = "...hwc,ih->...iwc" if axis == 0 else "...hwc,iw->...hic"
        maps = jnp.einsum(rows, maps, jnp.asarray(weights, maps.dtype))
    return cross_merge(full[..., None, :, :], grid, directions=1) + maps

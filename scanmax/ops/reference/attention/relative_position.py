"""Positions of pairs, as their equations."""

import jax
import jax.numpy as jnp
import numpy as np


def _places(grid):
    return [(y, x) for y in range(grid[0]) for x in range(grid[1])]


def relative_position_index(grid, table_grid=None):
    """index[t, s] = (y_t - y_s + Y' - 1) (2 X' - 1) + (x_t - x_s + X' - 1)."""
    height, width = grid if table_grid is None else table_grid
    index = [
        [
            (yt - ys + height - 1) * (2 * width - 1) + (xt - xs + width - 1)
            for ys, xs in _places(grid)
        ]
        for yt, xt in _places(grid)
    ]
    return jnp.asarray(index, jnp.int32)


def relative_position_bias(table, grid, table_grid=None, *, prefix_tokens=0):
    """bias[h, t, s] = table[index[t, s], h] on the grid, 0 on the prefix."""
    table_grid = grid if table_grid is None else table_grid
    for axis in range(2):
        if grid[axis] > table_grid[axis]:
            maps = table.reshape(*(2 * side - 1 for side in table_grid), -1)
            new = list(maps.shape)
            new[axis] = 2 * grid[axis] - 1
            maps = jax.image.resize(maps, new, "cubic", antialias=True)
            table_grid = tuple(grid[a] if a == axis else table_grid[a] for a in range(2))
            table = maps.reshape(-1, maps.shape[-1])
    tokens = prefix_tokens + grid[0] * grid[1]
    bias = jnp.zeros((table.shape[-1], tokens, tokens), table.dtype)
    index = relative_position_index(grid, table_grid)
    return bias.at[:, prefix_tokens:, prefix_tokens:].set(jnp.moveaxis(table[index], -1, 0))


def log_spaced_coordinates(query_grid, key_grid=None, *, pretrain_grid=None, dtype=jnp.float32):
    """c = sign(d) log2(1 + |d|) / 3, d = 8 (p_t - p_s) / (P - 1), over the pairs that differ."""
    key_grid = query_grid if key_grid is None else key_grid
    sides = query_grid if pretrain_grid is None else pretrain_grid

    def centre(size, pooled, cell):
        first, last = int(np.floor(cell * size / pooled)), int(np.ceil((cell + 1) * size / pooled))
        return np.mean(np.arange(first, last))

    pairs = []
    for query in _places(query_grid):
        for key in _places(key_grid):
            pair = []
            for axis in range(2):
                place = centre(query_grid[axis], key_grid[axis], key[axis])
                d = 8 * (query[axis] - place) / max(sides[axis] - 1, 1)
                pair.append(np.sign(d) * np.log2(1 + abs(d)) / 3)
            pairs.append(pair)
    coordinates, index = np.unique(np.round(pairs, 9), axis=0, return_inverse=True)
    shape = (query_grid[0] * query_grid[1], key_grid[0] * key_grid[1])
    exact = np.zeros_like(coordinates)
    exact[index.reshape(-1)] = pairs
    return jnp.asarray(exact, dtype), jnp.asarray(index.reshape(shape), jnp.int32)

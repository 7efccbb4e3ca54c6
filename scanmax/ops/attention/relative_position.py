"""Positions of pairs: relative bias tables and the log-spaced coordinates of a position MLP."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import accumulator_dtype, check_grid, check_shape, op, require

Grid = tuple[int, int]


def _offsets(grid: Grid) -> np.ndarray:
    """[T, T, 2]: position of the query minus position of the key, rows first."""
    places = np.stack([axis.reshape(-1) for axis in np.indices(grid)], -1)
    return places[:, None] - places[None]


@op("grid", "table_grid")
def relative_position_index(
    grid: tuple[int, int], table_grid: tuple[int, int] | None = None
) -> Int[Array, "T T"]:
    """Where in a relative bias table each pair of tokens looks, as Swin counts.

    index[t, s] = (y_t - y_s + Y' - 1) (2 X' - 1) + (x_t - x_s + X' - 1), Y' and X' the sides of
    the table's grid. Tokens run row by row.

    Args:
      grid: (Y, X), the tokens; T = Y * X.
      table_grid: (Y', X'), the grid that the table was made for; None is grid. A smaller grid reads
        the middle of the table.

    Returns:
      [T, T] int32, entries below (2 Y' - 1) * (2 X' - 1).

    Raises:
      ValueError: grid is larger than table_grid.

    Example:
      >>> from scanmax import ops
      >>> ops.relative_position_index((1, 3))
      Array([[2, 1, 0],
             [3, 2, 1],
             [4, 3, 2]], dtype=int32)

    Reference: stm-evaluation
    """
    table_grid = grid if table_grid is None else table_grid
    require(
        grid[0] <= table_grid[0] and grid[1] <= table_grid[1],
        f"grid={grid} is larger than table_grid={table_grid}: the table has no such offsets.",
    )
    offsets = _offsets(grid) + np.asarray(table_grid) - 1
    return jnp.asarray(offsets[..., 0] * (2 * table_grid[1] - 1) + offsets[..., 1], jnp.int32)


@op("grid", "table_grid", "prefix_tokens")
def relative_position_bias(
    table: Float[Array, "R H"],
    grid: tuple[int, int],
    table_grid: tuple[int, int] | None = None,
    *,
    prefix_tokens: int = 0,
) -> Float[Array, "H T T"]:
    """Bias of every pair of tokens, from a table over their offsets.

    bias[h, t, s] = table[relative_position_index[t, s], h], 0 where t or s is a prefix token. A
    side of the grid within the table's reads the middle of it; along a larger side the table is
    resampled to the offsets there are, bicubic as `resample_positions`.

    Args:
      table: [R, H], R = (2 Y' - 1) * (2 X' - 1), offsets of rows first, from negative to positive.
      grid: (Y, X), the tokens.
      table_grid: (Y', X'), the grid that the table was made for; None is grid.
      prefix_tokens: leading tokens outside the grid; T = prefix_tokens + Y * X.

    Returns:
      [H, T, T] in the dtype of table.

    Raises:
      ValueError: table does not have the offsets of table_grid.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.relative_position_bias(jnp.arange(3.0)[:, None], (1, 2), prefix_tokens=1)[0]
      Array([[0., 0., 0.],
             [0., 1., 0.],
             [0., 2., 1.]], dtype=float32)

    Reference: stm-evaluation
    """
    table_grid = grid if table_grid is None else table_grid
    sides = tuple(2 * side - 1 for side in table_grid)
    heads = table.shape[-1]
    check_shape("table", table, (sides[0] * sides[1], heads), f"[R, H] of {table_grid}")
    # a side that fits is read in the middle, by the index
    fitted = tuple(max(side, made) for side, made in zip(grid, table_grid))
    if fitted != table_grid:
        maps = table.astype(accumulator_dtype(table)).reshape(*sides, heads)
        needed = tuple(2 * side - 1 for side in fitted)
        maps = jax.image.resize(maps, (*needed, heads), "cubic", antialias=True)
        table, table_grid = maps.reshape(-1, heads).astype(table.dtype), fitted
    index = relative_position_index(grid, table_grid)
    bias = jnp.take(table.T, index, axis=1)
    return jnp.pad(bias, ((0, 0), (prefix_tokens, 0), (prefix_tokens, 0)))


def _pooled_places(size: int, pooled: int) -> np.ndarray:
    """The mean places of the cells that adaptive average pooling makes of `size` places."""
    cells = np.arange(pooled)
    first = cells * size // pooled
    last = -(-(cells + 1) * size // pooled) - 1
    return (first + last) / 2.0


@op("query_grid", "key_grid", "pretrain_grid", "dtype")
def log_spaced_coordinates(
    query_grid: tuple[int, int],
    key_grid: tuple[int, int] | None = None,
    *,
    pretrain_grid: tuple[int, int] | None = None,
    dtype=jnp.float32,
) -> tuple[Float[Array, "U 2"], Int[Array, "T S"]]:
    """Log-spaced relative coordinates, each once, and which of them each pair has (log-CPB).

    c = sign(d) log2(1 + |d|) / log2(8),   d = 8 (p_t - p_s) / (P - 1)

    for rows and columns, where P is the side of the grid in pretraining: an MLP of c that has seen
    one grid extrapolates to larger ones. Keys may be pooled: a cell of adaptive average pooling
    lies at the mean of its pixels. The offsets of a grid are few, so the MLP is applied to U of
    them and `mlp(coordinates)[index]` is the bias, [T, S, H].

    Args:
      query_grid: (Y, X); T = Y * X.
      key_grid: (Y', X') of the pooled keys; S = Y' * X'. None is query_grid.
      pretrain_grid: grid of the queries in pretraining; None is query_grid. A side of one counts
        as two.
      dtype: of the coordinates; they are computed in float64 and rounded once.

    Returns:
      (coordinates [U, 2], index [T, S] int32), coordinates in rising order, rows first.

    Raises:
      ValueError: a key grid larger than the query grid.

    Example:
      >>> from scanmax import ops
      >>> coordinates, index = ops.log_spaced_coordinates((1, 3), (1, 1))
      >>> (100 * coordinates).round().astype(int).tolist(), index.tolist()
      ([[0, -77], [0, 0], [0, 77]], [[0], [1], [2]])

    Reference: transnext
    """
    check_grid("query_grid", query_grid)
    key_grid = query_grid if key_grid is None else key_grid
    check_grid("key_grid", key_grid)
    pretrain_grid = query_grid if pretrain_grid is None else pretrain_grid
    values, indices = [], []
    for size, pooled, side in zip(query_grid, key_grid, pretrain_grid):
        require(
            1 <= pooled <= size,
            f"key_grid={key_grid} does not fit query_grid={query_grid}: it pools the queries'.",
        )
        offsets = np.arange(size)[:, None] - _pooled_places(size, pooled)[None]
        unique, index = np.unique(np.round(offsets, 6), return_inverse=True)
        scaled = 8.0 * unique / max(side - 1, 1)
        values.append(np.sign(scaled) * np.log2(1 + np.abs(scaled)) / np.log2(8))
        indices.append(index.reshape(size, pooled))
    coordinates = np.stack(np.meshgrid(*values, indexing="ij"), -1).reshape(-1, 2)
    rows, columns = indices
    index = rows[:, None, :, None] * len(values[1]) + columns[None, :, None, :]
    index = index.reshape(query_grid[0] * query_grid[1], -1)
    return jnp.asarray(coordinates, dtype), jnp.asarray(index, jnp.int32)

"""Maps as sequences in several directions and back: the cross-scan of vision state spaces."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import check_choice, check_rank, check_shape, op, require

DIRECTIONS = ("rows", "columns", "rows_reversed", "columns_reversed")
# By number: forward; forward and backward; all four.
_BY_NUMBER = {1: DIRECTIONS[:1], 2: DIRECTIONS[::2], 4: DIRECTIONS}
# Those that a multi-scale scan takes over the small map, in the released order.
SMALL_DIRECTIONS = ("rows_reversed", "columns", "columns_reversed")


def direction_names(directions: int | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the directions, from their number or themselves."""
    if isinstance(directions, int):
        check_choice("directions", directions, tuple(_BY_NUMBER))
        return _BY_NUMBER[directions]
    for name in directions:
        check_choice("directions", name, DIRECTIONS)
    return tuple(directions)


@op("directions")
def cross_scan(
    x: Float[Array, "*B Y X C"], *, directions: int | tuple[str, ...] = 4
) -> Float[Array, "*B R T C"]:
    """Reads a map as R sequences of its T = Y X pixels.

        rows: t = y X + x,   columns: t = x Y + y,   reversed: T - 1 - t

    Args:
      x: the map.
      directions: 1 is rows; 2 rows and rows_reversed; 4 rows, columns, rows_reversed and
        columns_reversed, in this order; or a tuple of these names.

    Returns:
      [*B, R, T, C], one sequence per direction.

    Raises:
      ValueError: too few axes, an unknown direction.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import cross_scan
      >>> cross_scan(jnp.arange(6.0).reshape(2, 3, 1))[..., 0]
      Array([[0., 1., 2., 3., 4., 5.],
             [0., 3., 1., 4., 2., 5.],
             [5., 4., 3., 2., 1., 0.],
             [5., 2., 4., 1., 3., 0.]], dtype=float32)

    Reference: msvmamba
    """
    check_rank(3, x=x)
    sequences = []
    for name in direction_names(directions):
        maps = x.swapaxes(-3, -2) if name.startswith("columns") else x
        tokens = lax.collapse(maps, -3, -1)
        sequences.append(jnp.flip(tokens, -2) if name.endswith("reversed") else tokens)
    return jnp.stack(sequences, -3)


@op("grid", "directions")
def cross_merge(
    y: Float[Array, "*B R T C"],
    grid: tuple[int, int],
    *,
    directions: int | tuple[str, ...] | None = None,
) -> Float[Array, "*B Y X C"]:
    """Puts sequences back on the map and adds them: the adjoint of `cross_scan`.

        z[p] = sum_r y[r, t_r(p)]

    Args:
      y: one sequence per direction.
      grid: (Y, X), with T = Y X.
      directions: as in `cross_scan`; None is R of them.

    Returns:
      [*B, Y, X, C], the sum over the directions.

    Raises:
      ValueError: too few axes, an unknown direction, numbers that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import cross_merge, cross_scan
      >>> x = jnp.arange(6.0).reshape(2, 3, 1)
      >>> cross_merge(cross_scan(x), (2, 3))[..., 0]
      Array([[ 0.,  4.,  8.],
             [12., 16., 20.]], dtype=float32)

    Reference: msvmamba
    """
    check_rank(3, y=y)
    names = direction_names(y.shape[-3] if directions is None else directions)
    require(
        y.shape[-3:-1] == (len(names), grid[0] * grid[1]),
        f"y has shape {y.shape}; expected [*B, R, T, C] with R = {len(names)} directions and "
        f"T = {grid[0]} * {grid[1]}.",
    )
    # Both directions along rows are added before they turn into a map, and so are the columns'.
    lines: dict[str, Array] = {}
    for index, name in enumerate(names):
        tokens = y[..., index, :, :]
        tokens = jnp.flip(tokens, -2) if name.endswith("reversed") else tokens
        line = name.removesuffix("_reversed")
        lines[line] = lines[line] + tokens if line in lines else tokens
    batch, channels = y.shape[:-3], y.shape[-1:]
    maps = {"rows": lambda z: z.reshape(*batch, *grid, *channels)}
    maps["columns"] = lambda z: z.reshape(*batch, *grid[::-1], *channels).swapaxes(-3, -2)
    return sum(maps[line](tokens) for line, tokens in lines.items())


@op()
def multi_scale_scan(
    x: Float[Array, "*B Y X C"], small: Float[Array, "*B y x C"]
) -> tuple[Float[Array, "*B T C"], Float[Array, "*B 3 t C"]]:
    """Reads a map in one direction and a smaller one in the three others.

        tokens = T + 3 t:   1.75 T at half the size, where `cross_scan` has 4 T

    Args:
      x: the map, read by rows.
      small: the smaller map, read by rows reversed, columns, and columns reversed.

    Returns:
      [*B, T, C] and [*B, 3, t, C], with T = Y X and t = y x.

    Raises:
      ValueError: too few axes, maps that differ in batch or channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import multi_scale_scan
      >>> full, small = multi_scale_scan(jnp.ones((4, 4, 1)), jnp.arange(4.0).reshape(2, 2, 1))
      >>> small[..., 0]
      Array([[3., 2., 1., 0.],
             [0., 2., 1., 3.],
             [3., 1., 2., 0.]], dtype=float32)

    Reference: msvmamba
    """
    check_rank(3, x=x, small=small)
    expected = (*x.shape[:-3], *small.shape[-3:-1], x.shape[-1])
    check_shape("small", small, expected, "batch and channels of x around [y, x]")
    full = lax.collapse(x, -3, -1)
    return full, cross_scan(small, directions=SMALL_DIRECTIONS)


@op("grid", "small_grid")
def multi_scale_merge(
    full: Float[Array, "*B T C"],
    small: Float[Array, "*B 3 t C"],
    grid: tuple[int, int],
    small_grid: tuple[int, int],
) -> Float[Array, "*B Y X C"]:
    """Puts the sequences of `multi_scale_scan` back: the small map is enlarged bilinearly.

        z = map(full) + enlarge(sum_r map_r(small[r]))

    Pixels are squares whose centres are aligned (torch's align_corners=False), edges are repeated.

    Args:
      full: the sequence by rows.
      small: the sequences by rows reversed, columns, and columns reversed.
      grid: (Y, X), with T = Y X.
      small_grid: (y, x), with t = y x, at most (Y, X).

    Returns:
      [*B, Y, X, C].

    Raises:
      ValueError: too few axes, numbers that do not agree, a small map larger than the other.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import multi_scale_merge
      >>> small = jnp.stack([jnp.arange(2.0), jnp.zeros(2), jnp.zeros(2)])[..., None]
      >>> multi_scale_merge(jnp.zeros((4, 1)), small, (1, 4), (1, 2))[0, :, 0]
      Array([1.  , 0.75, 0.25, 0.  ], dtype=float32)

    Reference: msvmamba
    """
    check_rank(2, full=full)
    check_rank(3, small=small)
    batch, channels = full.shape[:-2], full.shape[-1]
    check_shape("full", full, (*batch, grid[0] * grid[1], channels), "[*B, Y * X, C]")
    expected = (*batch, 3, small_grid[0] * small_grid[1], channels)
    check_shape("small", small, expected, "[*B, 3, y * x, C]")
    require(
        all(a <= b for a, b in zip(small_grid, grid)),
        f"small_grid={small_grid} is larger than grid={grid}.",
    )
    maps = cross_merge(small, small_grid, directions=SMALL_DIRECTIONS)
    large = jax.image.resize(maps, (*batch, *grid, channels), "linear", precision="highest")
    return full.reshape(large.shape) + large.astype(full.dtype)

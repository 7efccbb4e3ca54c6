"""Positions: rotary embeddings in one and two dimensions, sin-cos tables, and their resampling."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_grid,
    check_rank,
    op,
    require,
)

_LAYOUTS = ("half", "interleaved")


# Cosines and sines of known positions are constants up to this many of each. Where XLA has to make
# them on CPU it does so for every head anew, in ten times the time of the turn.
CONSTANT_ANGLES = 2**21


def turn_pairs(x: Array, angles: Array | np.ndarray, layout: str) -> Array:
    """Rotates the feature pairs of x [..., T, H, K] by angles [..., T, K/2]."""
    dtype, numpy = accumulator_dtype(x), np if isinstance(angles, np.ndarray) else jnp
    cos, sin = numpy.cos(angles)[..., None, :], numpy.sin(angles)[..., None, :]
    if layout == "half":
        cos, sin = numpy.concatenate([cos, cos], -1), numpy.concatenate([-sin, sin], -1)
        first, second = jnp.split(x.astype(dtype), 2, -1)
        swapped = jnp.concatenate([second, first], -1)
        turned = x.astype(dtype) * jnp.asarray(cos, dtype) + swapped * jnp.asarray(sin, dtype)
        return turned.astype(x.dtype)
    cos, sin = jnp.asarray(cos, dtype), jnp.asarray(sin, dtype)
    first, second = x.astype(dtype)[..., 0::2], x.astype(dtype)[..., 1::2]
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.stack(turned, -1).reshape(x.shape).astype(x.dtype)


def _angles(positions, width: int, base: float, dtype, endpoint: bool = False):
    """positions [..., T] times the `width` frequencies base^(-i / width); in numpy if they are."""
    steps = max(width - 1, 1) if endpoint else width
    frequencies = float(base) ** (-np.arange(width) / steps)
    if isinstance(positions, np.ndarray) and positions.size * width <= CONSTANT_ANGLES:
        return positions.astype(np.float64)[..., None] * frequencies
    positions, frequencies = jnp.asarray(positions), jnp.asarray(frequencies, dtype)
    return positions.astype(dtype)[..., None] * frequencies.reshape(
        (1,) * positions.ndim + (width,)
    )


def _leading(positions: Array | np.ndarray, x: Array) -> Array | np.ndarray:
    """Gives positions [T] the leading axes of x [*B, T, H, K]."""
    return positions.reshape((1,) * (x.ndim - 2 - positions.ndim) + positions.shape)


@op("base", "layout", "endpoint", "rotary_dim")
def rotary(
    x: Float[Array, "*B T H K"],
    positions: Real[Array, "*B T"] | Real[Array, "T"] | None = None,
    *,
    base: float = 10000.0,
    layout: str = "half",
    endpoint: bool = False,
    rotary_dim: int | None = None,
) -> Float[Array, "*B T H K"]:
    """Rotary position embedding: turns feature pairs by angles that grow with the position.

    (x_a, x_b) -> (x_a cos t - x_b sin t, x_b cos t + x_a sin t), t = position * base^(-2i / K)
    for pair i of K / 2, so that the product of a turned query and a turned key depends on the
    difference of their positions alone.

    Args:
      x: [*B, T, H, K] queries or keys.
      positions: [T] or [*B, T], integers or reals; None is 0, 1, ..., T - 1.
      base: wavelengths run from 2 pi to 2 pi * base.
      layout: which features pair up: "half" is (i, i + K/2), as GPT-NeoX and Llama checkpoints
        in transformers; "interleaved" is (2i, 2i + 1), as GPT-J and the original Llama.
      endpoint: t = position * base^(-2i / (K - 2)): the last wavelength is exactly 2 pi * base, as
        in RetNet and RMT (with the layout "interleaved").
      rotary_dim: turn only the first so many features, as if K were that; None turns all.

    Returns:
      [*B, T, H, K] in the dtype of x; angles are computed in at least float32.

    Raises:
      ValueError: for a width that is odd or above K, an unknown layout, or positions of
        another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.rotary(jnp.ones((2, 1, 2)), jnp.array([0.0, jnp.pi])).round()[:, 0]
      Array([[ 1.,  1.],
             [-1., -1.]], dtype=float32)

    Reference: illama
    """
    check_rank(3, x=x)
    check_choice("layout", layout, _LAYOUTS)
    width = x.shape[-1] if rotary_dim is None else rotary_dim
    require(
        0 < width <= x.shape[-1] and width % 2 == 0,
        f"rotary_dim={rotary_dim} with x of shape {x.shape}: the turned width must be even and "
        "at most K.",
    )
    if positions is None:
        positions = np.arange(x.shape[-3])
    require(
        positions.shape in (x.shape[:-2], x.shape[-3:-2]),
        f"positions has shape {positions.shape}; expected [T] = {x.shape[-3:-2]} or "
        f"[*B, T] = {x.shape[:-2]}.",
    )
    angles = _angles(_leading(positions, x), width // 2, base, accumulator_dtype(x), endpoint)
    turned = turn_pairs(x[..., :width], angles, layout)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], -1)


@op("grid", "base", "layout", "endpoint", "prefix_tokens")
def rotary_2d(
    x: Float[Array, "*B T H K"],
    *,
    grid: tuple[int, int],
    base: float = 10000.0,
    layout: str = "half",
    endpoint: bool = False,
    prefix_tokens: int = 0,
) -> Float[Array, "*B T H K"]:
    """Axial rotary embedding of a grid of tokens.

    The first K / 2 features turn with the row y of the token, the last K / 2 with its column x,
    each as `rotary` of width K / 2. Tokens run row by row.

    Args:
      x: [*B, T, H, K] queries or keys, T = prefix_tokens + Y * X.
      grid: (Y, X).
      base: wavelengths run from 2 pi to 2 pi * base.
      layout: pairing within each half, as in `rotary`.
      endpoint: the last wavelength is exactly 2 pi * base, as in the released code of RMT, RALA and
        MALA (with the layout "interleaved").
      prefix_tokens: leading tokens (class, distillation) that are not turned.

    Returns:
      [*B, T, H, K] in the dtype of x.

    Raises:
      ValueError: when 4 does not divide K, T is not prefix_tokens + Y * X, or the layout is
        unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> (100 * ops.rotary_2d(jnp.ones((2, 1, 4)), grid=(1, 2))[:, 0]).astype(int)
      Array([[100, 100, 100, 100],
             [100, 100, -30, 138]], dtype=int32)

    Reference: illama
    """
    check_grid("grid", grid)
    check_rank(3, x=x)
    check_choice("layout", layout, _LAYOUTS)
    require(x.shape[-1] % 4 == 0, f"x has shape {x.shape}; expected a width K divisible by 4.")
    require(
        x.shape[-3] == prefix_tokens + grid[0] * grid[1],
        f"x has shape {x.shape}; expected T = {prefix_tokens} + {grid[0]} * {grid[1]} tokens.",
    )
    rows, columns = (
        _leading(axis.reshape(-1), x[..., prefix_tokens:, :, :]) for axis in np.indices(grid)
    )
    dtype, quarter = accumulator_dtype(x), x.shape[-1] // 4
    halves = [
        turn_pairs(half, _angles(positions, quarter, base, dtype, endpoint), layout)
        for half, positions in zip(jnp.split(x[..., prefix_tokens:, :, :], 2, -1), (rows, columns))
    ]
    return jnp.concatenate([x[..., :prefix_tokens, :, :], jnp.concatenate(halves, -1)], -3)


def _sincos(positions: np.ndarray, dim: int, base: float, endpoint: bool) -> np.ndarray:
    """[T, dim]: sines then cosines of positions times falling frequencies, in float64."""
    steps = max(dim // 2 - 1, 1) if endpoint else dim // 2
    frequencies = float(base) ** (-np.arange(dim // 2) / steps)
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


@op("length", "dim", "base", "layout", "dtype")
def sincos_1d(
    length: int, dim: int, *, base: float = 10000.0, layout: str = "half", dtype=jnp.float32
) -> Float[Array, "T D"]:
    """Fixed sin-cos table of a sequence.

    sin and cos of t * base^(-2i / D) for i < D / 2, all sines before all cosines ("half", as in
    MAE and tensor2tensor) or in turn ("interleaved", as Vaswani et al. print it).

    Args:
      length: T.
      dim: D, even.
      base: wavelengths run from 2 pi to 2 pi * base.
      layout: "half" or "interleaved".
      dtype: of the table; it is computed in float64 and rounded once.

    Returns:
      [T, D].

    Raises:
      ValueError: when dim is odd or the layout unknown.

    Example:
      >>> from scanmax import ops
      >>> (100 * ops.sincos_1d(2, 4)).round().astype(int)
      Array([[  0,   0, 100, 100],
             [ 84,   1,  54, 100]], dtype=int32)

    Reference: deit
    """
    check_choice("layout", layout, _LAYOUTS)
    require(dim > 0 and dim % 2 == 0, f"dim={dim} must be positive and even.")
    table = _sincos(np.arange(length), dim, base, endpoint=False)
    if layout == "interleaved":
        table = table.reshape(length, 2, dim // 2).swapaxes(1, 2).reshape(length, dim)
    return jnp.asarray(table, dtype)


@op("grid", "dim", "base", "endpoint", "dtype")
def sincos_2d(
    grid: tuple[int, int],
    dim: int,
    *,
    base: float = 10000.0,
    endpoint: bool = False,
    dtype=jnp.float32,
) -> Float[Array, "N D"]:
    """Fixed sin-cos table of a grid, row by row.

    [sin(x w), cos(x w), sin(y w), cos(y w)] with the column x first and D / 4 frequencies
    w_i = base^(-i / (D/4)), as in MAE; with `endpoint` w_i = base^(-i / (D/4 - 1)), as in
    big_vision, whose last wavelength is exactly 2 pi * base.

    Args:
      grid: (Y, X); N = Y * X.
      dim: D, divisible by 4.
      base: the longest wavelength over 2 pi.
      endpoint: big_vision's frequencies instead of MAE's.
      dtype: of the table; it is computed in float64 and rounded once.

    Returns:
      [N, D]; a class token's row, where a model has one, is zero in MAE and is the model's part.

    Raises:
      ValueError: when 4 does not divide dim.

    Example:
      >>> from scanmax import ops
      >>> (100 * ops.sincos_2d((1, 2), 4)).round().astype(int)
      Array([[  0, 100,   0, 100],
             [ 84,  54,   0, 100]], dtype=int32)

    Reference: deit
    """
    check_grid("grid", grid)
    require(dim > 0 and dim % 4 == 0, f"dim={dim} must be positive and divisible by 4.")
    rows, columns = (_sincos(axis, dim // 2, base, endpoint) for axis in np.indices(grid))
    return jnp.asarray(np.concatenate([columns, rows], -1), dtype)


@op("grid", "dim", "base", "epsilon", "dtype")
def fourier_positions(
    grid: tuple[int, int],
    dim: int,
    *,
    base: float = 10000.0,
    epsilon: float = 1e-6,
    dtype=jnp.float32,
) -> Float[Array, "N D"]:
    """Fourier code of a grid whose sides count as one turn, whatever its size; row by row.

    [sin(y w_0), cos(y w_0), sin(y w_1), ..., sin(x w_0), cos(x w_0), ...] with
    y = 2 pi (row + 1) / (Y + epsilon), x alike, and D / 4 frequencies w_i = base^(-i / (D/4)). A
    projection to the model's width follows, so that a model reads any grid.

    Args:
      grid: (Y, X); N = Y * X.
      dim: D, divisible by 4; 64 in XCiT.
      base: of the falling frequencies.
      epsilon: as the released code has it.
      dtype: of the table; it is computed in float64 and rounded once.

    Returns:
      [N, D].

    Raises:
      ValueError: when 4 does not divide dim.

    Example:
      >>> from scanmax import ops
      >>> (100 * ops.fourier_positions((1, 4), 4)[:, 2:]).round().astype(int)
      Array([[ 100,    0],
             [   0, -100],
             [-100,    0],
             [   0,  100]], dtype=int32)

    Reference: xcit
    """
    check_grid("grid", grid)
    require(dim > 0 and dim % 4 == 0, f"dim={dim} must be positive and divisible by 4.")
    frequencies = float(base) ** (-np.arange(dim // 4) / (dim // 4))
    codes = []
    for places, side in zip(np.indices(grid), grid):
        angles = 2 * np.pi * (places.reshape(-1, 1) + 1) / (side + epsilon) * frequencies
        codes.append(np.stack([np.sin(angles), np.cos(angles)], -1).reshape(-1, dim // 2))
    return jnp.asarray(np.concatenate(codes, -1), dtype)


@op("grid", "new_grid", "prefix_tokens", "method")
def resample_positions(
    table: Float[Array, "*L N D"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    prefix_tokens: int = 0,
    method: str = "cubic",
) -> Float[Array, "*L M D"]:
    """Resamples a table of grid positions to another grid.

    Separable interpolation with half-pixel centres; where the grid shrinks the kernel is
    stretched by the same factor (antialiasing), and weights are renormalised at the borders.
    "cubic" is Keys' kernel with a = -0.5: the result of timm's `resample_abs_pos_embed` and of
    torch's interpolate with mode="bicubic", antialias=True.

    Args:
      table: [*, N, D] positions, N = prefix_tokens + Y * X, row by row.
      grid: (Y, X) of the table.
      new_grid: (Y', X'); M = prefix_tokens + Y' * X'.
      prefix_tokens: leading rows (class, distillation) that are kept as they are.
      method: "cubic" or "linear".

    Returns:
      [*, M, D] in the dtype of table, interpolated in at least float32.

    Raises:
      ValueError: when N is not prefix_tokens + Y * X, a new side is not positive, or the method
        is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.resample_positions(jnp.arange(4.0)[:, None], (2, 2), (1, 2), method="linear")
      Array([[1.],
             [2.]], dtype=float32)

    Reference: deit
    """
    check_rank(2, table=table)
    check_choice("method", method, ("cubic", "linear"))
    require(
        table.shape[-2] == prefix_tokens + grid[0] * grid[1],
        f"table has shape {table.shape}; expected N = {prefix_tokens} + {grid[0]} * {grid[1]}.",
    )
    require(min(new_grid) >= 1, f"new_grid={new_grid} must be positive.")
    if tuple(grid) == tuple(new_grid):
        return table
    *leading, _, width = table.shape
    maps = table[..., prefix_tokens:, :].astype(accumulator_dtype(table))
    maps = jax.image.resize(
        maps.reshape(*leading, *grid, width), (*leading, *new_grid, width), method, antialias=True
    )
    maps = jax.lax.collapse(maps, -3, -1).astype(table.dtype)
    return jnp.concatenate([table[..., :prefix_tokens, :], maps], -2)

"""Global filters: a map times learned weights in the domain of frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_grid,
    check_rank,
    check_shape,
    op,
    require,
    vary_like,
)

_AXES = (-3, -2)


@op()
def global_filter(
    x: Float[Array, "*B Y X C"], weight: Float[Array, "Y F C 2"]
) -> Float[Array, "*B Y X C"]:
    """Spectral gating: every frequency of a channel times a complex number.

        y = irfft2(rfft2(x) * (weight_0 + i weight_1))

    which is the circular convolution of each channel with irfft2(weight), a kernel as large as the
    map, in the time of T log T.

    Args:
      x: the map.
      weight: real and imaginary parts, F = floor(X / 2) + 1.

    Returns:
      [*B, Y, X, C] in the dtype of x; transforms are in at least float32.

    Raises:
      ValueError: when weight is not [Y, F, C, 2]; `resample_filter` brings one to another map.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> mean = jnp.zeros((2, 2, 1, 2)).at[0, 0, 0, 0].set(1.0)
      >>> ops.global_filter(jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]]), mean)[..., 0]
      Array([[4., 4.],
             [4., 4.]], dtype=float32)

    Reference: spectformer
    """
    check_rank(3, x=x)
    rows, columns, channels = x.shape[-3:]
    expected = (rows, columns // 2 + 1, channels, 2)
    check_shape("weight", weight, expected, "[Y, floor(X / 2) + 1, C, 2]")
    dtype = accumulator_dtype(x, weight)
    spectrum = jnp.fft.rfft2(x.astype(dtype), axes=_AXES)
    parts = vary_like(weight.astype(dtype), x)
    gains = jnp.broadcast_to(jax.lax.complex(parts[..., 0], parts[..., 1]), spectrum.shape)
    y = jnp.fft.irfft2(spectrum * gains, s=(rows, columns), axes=_AXES)
    return y.astype(x.dtype)


@op("grid", "new_grid")
def resample_filter(
    weight: Float[Array, "Y F C 2"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Array, "U G C 2"]:
    """A filter of `global_filter` for a map of another size, by its frequencies.

        w'(f, g) = sum_ab l(f - f_a) l(g - g_b) w(f_a, g_b)

    f_a = a / Y and g_b = b / X are the frequencies, in cycles a pixel, that the weights belong to,
    l the linear interpolation between neighbours. Rows go round, as frequencies do; beyond the
    highest column there is the highest. What the filter does to a wave of given length stays.

    Args:
      weight: real and imaginary parts, F = floor(X / 2) + 1.
      grid: (Y, X) of the map that weight is for.
      new_grid: (U, V) of another; G = floor(V / 2) + 1.

    Returns:
      [U, G, C, 2] in the dtype of weight, interpolated in at least float32.

    Raises:
      ValueError: when weight does not fit grid, or a grid is no pair of positive integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> weight = jnp.array([0.0, 4.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 1, 1, 2))
      >>> ops.resample_filter(weight, (1, 2), (1, 4))[0, :, 0, 0]
      Array([0., 2., 4.], dtype=float32)

    Reference: spectformer
    """
    check_grid("grid", grid)
    check_grid("new_grid", new_grid)
    require(
        weight.ndim == 4
        and weight.shape[:2] == (grid[0], grid[1] // 2 + 1)
        and weight.shape[3] == 2,
        f"weight has shape {weight.shape}; expected [Y, floor(X / 2) + 1, C, 2] with grid={grid}.",
    )
    if grid == new_grid:
        return weight
    dtype = accumulator_dtype(weight)
    rows = _between(np.arange(new_grid[0]) * grid[0] / new_grid[0], grid[0], wraps=True)
    highest = grid[1] // 2
    places = np.minimum(np.arange(new_grid[1] // 2 + 1) * grid[1] / new_grid[1], highest)
    columns = _between(places, highest + 1, wraps=False)
    y = jnp.einsum("uy,yfcp->ufcp", jnp.asarray(rows, dtype), weight.astype(dtype))
    y = jnp.einsum("gf,ufcp->ugcp", jnp.asarray(columns, dtype), y)
    return y.astype(weight.dtype)


def _between(places: np.ndarray, size: int, wraps: bool) -> np.ndarray:
    """The matrix [places, size] of linear interpolation between neighbours."""
    below = np.floor(places).astype(int)
    above = (below + 1) % size if wraps else np.minimum(below + 1, size - 1)
    matrix = np.zeros((len(places), size))
    index = np.arange(len(places))
    np.add.at(matrix, (index, below), 1 - (places - below))
    np.add.at(matrix, (index, above), places - below)
    return matrix

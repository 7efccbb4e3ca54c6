"""Positions of a grid that models learn: tables that are resampled, projections of a fixed code."""

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, normal_init, partitioned

FOURIER_WIDTH = 64


def learned_positions(
    module: nn.Module,
    dim: int,
    fitted: tuple[int, int],
    grid: tuple[int, int],
    *,
    prefix_tokens: int = 0,
    name: str = "pos_embed",
    method: str = "cubic",
) -> Float[Array, "T D"]:
    """A table that a module learns for the grid `fitted`, prefix tokens in front, as `grid` is.

    Args:
      module: the host, inside its compact method.
      dim: width of the model.
      fitted: (Y, X) of the table.
      grid: (Y, X) of the tokens; another is resampled to.
      prefix_tokens: rows in front that belong to no place.
      name: of the parameter.
      method: of resampling, "cubic" or "linear".

    Returns:
      [prefix + Y * X, D] in the parameter's dtype.
    """
    init = partitioned(normal_init, (None, "embed"))
    shape = (prefix_tokens + fitted[0] * fitted[1], dim)
    table = module.param(name, init, shape, module.param_dtype)
    return ops.resample_positions(table, fitted, grid, prefix_tokens=prefix_tokens, method=method)


class FourierPositions(Dense):
    """A learned projection of the Fourier code of a grid, whatever its size (XCiT).

    `FourierPositions(dim, (None, "embed"))(grid) -> [Y * X, D]`

    Reference: xcit
    """

    def __call__(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        return super().__call__(ops.fourier_positions(grid, FOURIER_WIDTH))

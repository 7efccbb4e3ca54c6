"""Positions of a grid that models learn: tables that are resampled, projections of a fixed code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
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


def axis_positions(
    module: nn.Module,
    dim: int,
    fitted: tuple[int, int],
    grid: tuple[int, int],
    *,
    prefix_tokens: int = 0,
    train: bool = False,
) -> Float[Array, "T D"]:
    """A vector for each row plus one for each column, and those of prefix tokens, all learned.

    A smaller grid reads the first rows and columns, and in training columns from any place on: a
    clip of a longer sound.

    Args:
      module: the host, inside its compact method; in training its "dropout" draws.
      dim: width of the model.
      fitted: (Y, X) of the vectors.
      grid: (Y, X) of the tokens.
      prefix_tokens: rows in front that belong to no place.
      train: whether it trains.

    Returns:
      [prefix + Y * X, D] in the parameter's dtype.

    Raises:
      UserError: a grid that is larger.

    Reference: passt-patchout
    """
    if grid[0] > fitted[0] or grid[1] > fitted[1]:
        raise UserError(
            f"positions='axes' has {fitted[0]} x {fitted[1]} places, the image {grid[0]} x "
            f"{grid[1]} patches: set img_size to the largest"
        )
    init = partitioned(normal_init, (None, "embed"))
    rows, columns = (
        module.param(f"pos_embed_{name}", init, (count, dim), module.param_dtype)
        for name, count in zip(("rows", "columns"), fitted)
    )
    rows, room = rows[: grid[0]], fitted[1] - grid[1]
    first = 0
    if train and room and not module.is_initializing():
        first = jax.random.randint(module.make_rng("dropout"), (), 0, room + 1)
    columns = jax.lax.dynamic_slice_in_dim(columns, first, grid[1])
    table = (rows[:, None] + columns[None]).reshape(-1, dim)
    if not prefix_tokens:
        return table
    prefix = module.param("pos_embed", init, (prefix_tokens, dim), module.param_dtype)
    return jnp.concatenate([prefix, table])


class FourierPositions(Dense):
    """A learned projection of the Fourier code of a grid, whatever its size (XCiT).

    `FourierPositions(dim, (None, "embed"))(grid) -> [Y * X, D]`

    Reference: xcit
    """

    def __call__(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        return super().__call__(ops.fourier_positions(grid, FOURIER_WIDTH))

"""Biases of attention logits that depend on where query and key lie: a table, or an MLP."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, normal_init, partitioned

Grid = tuple[int, int]


class RelativePositionBias(nn.Module):
    """A learned bias per head and offset, as Swin's; [H, T, T] for a grid.

    Grids within the table's read the middle of it, larger ones the table resampled.

    Attributes:
      heads: H.
      table_grid: the grid whose offsets the table holds.
      prefix_tokens: leading tokens outside the grid, without bias.
    """

    heads: int
    table_grid: Grid
    prefix_tokens: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Grid) -> Float[Array, "H T T"]:
        rows, columns = (2 * side - 1 for side in self.table_grid)
        init = partitioned(normal_init, (None, "heads"))
        table = self.param("table", init, (rows * columns, self.heads), self.param_dtype)
        return ops.relative_position_bias(
            table.astype(self.dtype), grid, self.table_grid, prefix_tokens=self.prefix_tokens
        )


class LogCpb(nn.Module):
    """Log-spaced continuous position bias: an MLP of the offset, [H, T, S].

    Two layers of coordinates that `ops.log_spaced_coordinates` makes: any grid, pooled keys too.

    Attributes:
      heads: H.
      hidden: width of the MLP.
      pretrain_grid: the queries' grid in pretraining, by which offsets are scaled; None takes each
        grid as it comes, so that offsets are shares of the map.
      prefix_tokens: leading queries (and keys, unless pooled) outside the grid, without bias.

    Reference: transnext
    """

    heads: int
    hidden: int = 512
    pretrain_grid: Grid | None = None
    prefix_tokens: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Grid, key_grid: Grid | None = None) -> Float[Array, "H T S"]:
        coordinates, index = ops.log_spaced_coordinates(
            grid, key_grid, pretrain_grid=self.pretrain_grid, dtype=self.dtype
        )
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = Dense(self.hidden, (None, "mlp"), name="fc1", **options)(coordinates)
        table = Dense(self.heads, ("mlp", "heads"), name="fc2", **options)(jax.nn.relu(hidden))
        bias = jnp.take(table.T, index, axis=1)
        keys = self.prefix_tokens if key_grid is None else 0
        return jnp.pad(bias, ((0, 0), (self.prefix_tokens, 0), (keys, 0)))

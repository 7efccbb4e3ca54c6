"""The token-mixing perceptron of MLP-Mixer, its gated form, and ResMLP's one linear map."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import partitioned, zeros_init
from scanmax.models.mixers.base import Mixer


class TokenMlp(Mixer):
    """A perceptron over the tokens, the same for every channel.

    Its weights are a number for each place of a map of `token_grid`. On a map of another size the
    tables that lie over places are resampled as positions are, and what reads them is scaled so
    that the sums keep their size. Prefix tokens have no place: `beside_prefix` says what they read.

    Attributes:
      token_grid: rows and columns of the map that the weights are for.
      hidden: width of the hidden layer; None is half of the model's, 0 leaves one linear map from
        tokens to tokens, as in ResMLP.
      gated: the hidden layer is its values times the activation of a gate's.
      activation: "gelu", "silu" or "relu".
    """

    formula: ClassVar[str] = "y = W2^T gelu(W1^T x + b1) + b2,  over the tokens of each channel"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("mlp-mixer",)

    token_grid: tuple[int, int] = (14, 14)
    hidden: int | None = None
    gated: bool = False
    activation: str = "gelu"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("TokenMlp has no causal form: its weights read the whole map.")
        x, grid = x.astype(self.dtype), tuple(self.grid_or_line(x, grid))
        places = self.token_grid[0] * self.token_grid[1]
        hidden = x.shape[-1] // 2 if self.hidden is None else self.hidden
        weights = self.reading("fc1", hidden or places, grid)
        if hidden:
            gate = self.reading("gate", hidden, grid) if self.gated else (None, None)
            weights = (*weights, *self.writing("fc2", hidden, grid), *gate)
        y = ops.token_mlp(x[:, self.prefix_tokens :], *weights, activation=self.activation)
        return self.beside_prefix(x, y)

    @nn.nowrap
    def reading(self, name: str, features: int, grid: tuple[int, int]):
        """Kernel [T, features] and bias of a map from the places of `grid`."""
        own = tuple(self.token_grid)
        linear = self.hidden == 0
        axes = (None, None if linear else "mlp")
        kernel, bias = self.tables(name, (own[0] * own[1], features), axes)
        if grid != own:
            share = own[0] * own[1] / (grid[0] * grid[1])
            kernel = ops.resample_positions(kernel, own, grid) * jnp.asarray(share, kernel.dtype)
        return self.at_places(grid, kernel, bias) if linear else (kernel, bias)

    @nn.nowrap
    def writing(self, name: str, hidden: int, grid: tuple[int, int]):
        """Kernel [hidden, T] and bias of a map to the places of `grid`."""
        shape = (hidden, self.token_grid[0] * self.token_grid[1])
        return self.at_places(grid, *self.tables(name, shape, ("mlp", None)))

    @nn.nowrap
    def at_places(self, grid: tuple[int, int], *tables: Array | None) -> list[Array | None]:
        """Tables whose last axis are the places of token_grid, for those of `grid`."""
        own = tuple(self.token_grid)
        return [
            table
            if table is None or grid == own
            else ops.resample_positions(table[..., None], own, grid)[..., 0]
            for table in tables
        ]

    @nn.nowrap
    def tables(self, name: str, shape: tuple[int, int], axes: tuple[str | None, str | None]):
        """Kernel and bias of a map over tokens."""
        init = partitioned(nn.initializers.xavier_uniform(), axes, (-2,), (-1,))
        kernel = self.param(f"{name}_kernel", init, shape, self.param_dtype).astype(self.dtype)
        if not self.use_bias:
            return kernel, None
        init = partitioned(zeros_init, axes[1:])
        bias = self.param(f"{name}_bias", init, shape[1:], self.param_dtype)
        return kernel, bias.astype(self.dtype)

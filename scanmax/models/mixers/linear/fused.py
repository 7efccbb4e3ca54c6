"""One projection for queries, keys and values: what mixers in linear order share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense
from scanmax.models.mixers.base import Mixer
from scanmax.models.statistics import at_least_float32


class Fused(Mixer):
    """One product for queries, keys and values, one for the output; a subclass mixes between."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim = x.shape[-1]
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        shape = (3, self.heads, self.head_dim(dim))
        dense = Dense(shape, ("embed", None, "heads", "kv"), apart=True, name="qkv", **options)
        y, state = self.mix(x, grid, *dense(x), state)
        y = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        """(y, state) of x, its grid and its projections [B, T, H, K]."""
        raise NotImplementedError

    @nn.nowrap
    def init_sums(self, batch_size: int, dim: int) -> Array:
        """The empty state of scaling, injective and magnitude-aware attention."""
        width = self.head_dim(dim) + 1
        return jnp.zeros((batch_size, self.heads, width, width), at_least_float32(self.dtype))

"""MAXIM's multi-axis gated MLP: half of the channels mixed in blocks, half over grids."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import LayerNorm, activation
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.multi_axis import PlaceMix


class MultiAxisMlp(MapMixer):
    """The multi-axis gated MLP: near pixels are mixed in blocks, far ones over a dilated grid.

    Pixels are mapped to two halves of `expansion` times D channels together. Each half is a gated
    MLP with a residual of its own, u + W2 (a * (mix(LN(b)) + 1)) with (a, b) = gelu(W1 LN(u)); the
    first mixes over the grid, the second in blocks. A linear map of both ends it. The norm before
    all is the host's.

    The weights are numbers for the places of a block and the cells of a grid, so that maps of any
    size take the same: see `ops.block_mix`. Both reach all of a map of at most their size.

    Attributes:
      block_size: rows and columns of a block.
      grid_size: rows and columns of a grid's cells.
      expansion: channels of both halves over D.
      gate_expansion: channels of each half's gate and values over the half's.
      activation: "gelu_tanh" as released, or another of layers.ACTIVATIONS.
    """

    formula: ClassVar[str] = "y = W [u + W2 (a * (M LN(b) + 1)) over grids, same in blocks]"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("maxim",)

    block_size: tuple[int, int] = (8, 8)
    grid_size: tuple[int, int] = (8, 8)
    expansion: int = 2
    gate_expansion: int = 2
    activation: str = "gelu_tanh"

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, act = maps.shape[-1], activation(self.activation)
        both = self.expansion * dim
        if both % 2 or self.gate_expansion % 2:
            raise ValueError(
                f"expansion={self.expansion} of width {dim}, gate_expansion="
                f"{self.gate_expansion}: expected even numbers of channels to halve."
            )
        halves = jnp.split(act(self.dense(both, ("embed", "mlp"), "in_proj")(maps)), 2, -1)
        sides = {"grid": self.grid_size, "block": self.block_size}
        done = []
        for (axis, size), half in zip(sides.items(), halves):
            width = half.shape[-1]
            y = LayerNorm(axis="mlp", name=f"{axis}_norm", **self.dtypes)(half)
            y = self.dense(self.gate_expansion * width, ("mlp", None), f"{axis}_in")(y)
            kept, gate = jnp.split(act(y), 2, -1)
            gate = LayerNorm(axis="mlp", name=f"{axis}_gate_norm", **self.dtypes)(gate)
            mix = PlaceMix(axis, size, use_bias=self.use_bias, name=f"{axis}_mix", **self.dtypes)
            y = kept * (mix(gate) + 1)
            done.append(half + self.dense(width, (None, "mlp"), f"{axis}_out")(y))
        return self.dense(dim, ("mlp", "embed"), "out_proj")(jnp.concatenate(done, -1))

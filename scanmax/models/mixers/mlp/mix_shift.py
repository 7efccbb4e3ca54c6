"""The mixing and shifting of MS-MLP as a mixer of maps."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import fan_in_uniform, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.ops.contract import spread


class MixShift(MapMixer):
    """Mix-shift: groups of channels shifted along rows and columns, convolved there, and added.

    It has no product over channels, as the paper's block has none beside its MLP. Groups are of
    ceil(D / n) channels; the last has the rest.

    Attributes:
      distances: of the shift of each group, in pixels.
      sizes: sides of each group's kernels, odd: those of the first stage.
    """

    formula: ClassVar[str] = "y_i = k_i * shift_X(x_i, d_i) + l_i * shift_Y(x_i, d_i)"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("ms-mlp",)

    distances: tuple[int, ...] = (-2, -1, 0, 1, 2)
    sizes: tuple[int, ...] = (1, 1, 3, 5, 7)

    def __post_init__(self):
        super().__post_init__()
        if len(self.sizes) != len(self.distances):
            raise UserError(
                f"sizes={self.sizes} and distances={self.distances}: expected one of each a group"
            )

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        width = -(-dim // len(self.sizes))
        widths = [min(width, dim - first) for first in range(0, dim, width)]
        kinds, biases = {"row": [], "column": []}, {"row": [], "column": []}
        for kind in kinds:
            for group, (channels, size) in enumerate(zip(widths, self.sizes)):
                init = partitioned(
                    fan_in_uniform(), (None, None, None, "conv_out"), inputs=(-4, -3, -2)
                )
                shape = (size, size, 1, channels)
                kernel = self.param(f"{kind}{group}_kernel", init, shape, self.param_dtype)
                kinds[kind].append(kernel.astype(self.dtype))
                if self.use_bias:
                    init = partitioned(zeros_init, ("conv_out",))
                    bias = self.param(f"{kind}{group}_bias", init, (channels,), self.param_dtype)
                    biases[kind].append(bias.astype(self.dtype))
        distances = tuple(self.distances)[: len(widths)]
        y = ops.mix_shift(maps, kinds["row"], kinds["column"], distances=distances)
        if self.use_bias:
            row, column = (jnp.concatenate(parts) for parts in biases.values())
            y = y + spread(row + column, y)
        return y

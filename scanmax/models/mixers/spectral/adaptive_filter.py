"""AFFNet's mixer: a filter as large as the map, which the map's spectrum sets."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import normal_init, partitioned
from scanmax.models.mixers.base import MapMixer
from scanmax.models.statistics import at_least_float32


class AdaptiveFilter(MapMixer):
    """Adaptive frequency filter: the spectrum, masked by a small complex network that reads it.

    Attributes:
      groups: of channels, which the network joins apart; divides D.
      mlp_ratio: hidden width of a group over its width.
      threshold: parts of the mask below it are zero.
      residual: add x, as the released module does beside its block's own residual.
    """

    formula: ClassVar[str] = "y = irfft2(M X) + x,  M = shrink(W relu(V X + b) + c),  X = rfft2(x)"
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("affnet",)

    groups: int = 8
    mlp_ratio: float = 1.0
    threshold: float = 0.01
    residual: bool = True

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, groups = maps.shape[-1], self.groups
        if dim % groups:
            raise UserError(f"groups={groups} do not divide the width, {dim}")
        width = dim // groups
        hidden = int(width * self.mlp_ratio)
        arrays = []
        for name, inputs, outputs in (("fc1", width, hidden), ("fc2", hidden, width)):
            axes = (None, None, None, "mlp")
            init = partitioned(normal_init, axes, inputs=(-2,), outputs=(-1,))
            shape = (2, groups, inputs, outputs)
            arrays.append(self.param(f"{name}_kernel", init, shape, self.param_dtype))
            init = partitioned(normal_init, (None, None, "mlp"))
            arrays.append(self.param(f"{name}_bias", init, (2, groups, outputs), self.param_dtype))
        arrays = [array.astype(at_least_float32(self.dtype)) for array in arrays]
        y = ops.adaptive_frequency_filter(maps, *arrays, threshold=self.threshold)
        return y + maps if self.residual else y

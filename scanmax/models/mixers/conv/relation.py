"""UniFormer's local relation: what a pixel takes from its neighbours is learned by their place."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.layers import fan_in_uniform
from scanmax.models.mixers.base import MapMixer


class LocalRelation(MapMixer):
    """Attention whose weights are learned by offset, one set for each channel.

    A linear map makes the values, a depthwise convolution weighs those around each pixel, a linear
    map puts them together: UniFormer's relation aggregator in its first stages.

    Attributes:
      kernel_size: side of what a pixel sees.
    """

    formula: ClassVar[str] = "y_p = W sum_o a_o * (V x)_(p+o)"
    cost: ClassVar[str] = "T k^2"
    papers: ClassVar[tuple[str, ...]] = ("uniformer",)

    kernel_size: int = 5

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, init = maps.shape[-1], {"kernel_init": fan_in_uniform()}
        y = self.dense(dim, ("embed", "mlp"), "value", **init)(maps)
        y = self.depthwise(dim, self.kernel_size, "affinity")(y)
        return self.dense(dim, ("mlp", "embed"), "out", **init)(y)

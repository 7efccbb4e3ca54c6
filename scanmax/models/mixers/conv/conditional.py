"""CondConv as a mixer of maps: a depthwise kernel that each image mixes from several."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.conditional import CondConv


class ConditionalConv(MapMixer):
    """A depthwise convolution with kernels of each image's own, and a linear map.

    The image's mean pixel says by sigmoids how much of each of `experts` kernels it takes.

    Attributes:
      kernel_size: side of the kernels.
      experts: kernels that are mixed.
    """

    formula: ClassVar[str] = "y = W (x * sum_i a_i k_i + b),  a = sigmoid(R mean(x))"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("condconv",)

    kernel_size: int = 3
    experts: int = 4

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        conv = CondConv(
            dim,
            self.kernel_size,
            self.experts,
            groups=dim,
            use_bias=self.use_bias,
            name="conv",
            **self.dtypes,
        )
        return self.dense(dim, ("embed", "embed"), "out")(conv(maps))

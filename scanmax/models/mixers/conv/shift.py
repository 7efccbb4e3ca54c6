"""SCNet's shift-convolution block as a mixer of maps."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Initializer, activation, normal_init
from scanmax.models.mixers.base import MapMixer


class ShiftConv(MapMixer):
    """Two linear maps of each pixel with a shift in eight directions between them.

    y = W2 relu(shift(W1 x)): an eighth of the channels is read from each neighbour of a pixel, so
    that maps over channels alone reach what a 3 by 3 convolution does. 8 divides D.

    Attributes:
      steps: how far channels are shifted.
      activation: between shift and second map; a name of layers.ACTIVATIONS.
      kernel_init: of both maps.
    """

    formula: ClassVar[str] = "y = W2 relu(shift_8(W1 x))"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("scnet-shift-conv",)

    steps: int = 1
    activation: str = "relu"
    kernel_init: Initializer = normal_init

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        if dim % 8:
            raise UserError(f"shift_conv shifts eighths of its channels; 8 does not divide {dim}")
        own = {"kernel_init": self.kernel_init}
        x = self.dense(dim, ("embed", "mlp"), "in_proj", **own)(maps)
        x = activation(self.activation)(ops.shift_eight(x, steps=self.steps))
        return self.dense(dim, ("mlp", "embed"), "out_proj", **own)(x)

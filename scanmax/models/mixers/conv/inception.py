"""The split depthwise convolution of InceptionNeXt as a mixer of maps."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import fan_in_uniform, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.ops.contract import spread


class Inception(MapMixer):
    """InceptionNeXt's convolution: a square, a row and a column of D / 8 channels; the rest passes.

    It has no product over channels, as the paper's block has none beside its MLP.

    Attributes:
      square_size: side of the square kernels.
      band_size: length of the rows and columns.
      share: of the channels in each of the three groups; one channel at least.
    """

    formula: ClassVar[str] = "y = [x_1, x_2 * k_3x3, x_3 * k_1xb, x_4 * k_bx1]"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("inceptionnext",)

    square_size: int = 3
    band_size: int = 11
    share: float = 0.125

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        group = max(1, int(dim * self.share))
        kernels, biases = [], [jnp.zeros(dim - 3 * group, self.dtype)]
        k, b = self.square_size, self.band_size
        for name, size in (("square", (k, k)), ("row", (1, b)), ("column", (b, 1))):
            init = partitioned(
                fan_in_uniform(), (None, None, None, "conv_out"), inputs=(-4, -3, -2)
            )
            kernel = self.param(f"{name}_kernel", init, (*size, 1, group), self.param_dtype)
            kernels.append(kernel.astype(self.dtype))
            if self.use_bias:
                init = partitioned(zeros_init, ("conv_out",))
                bias = self.param(f"{name}_bias", init, (group,), self.param_dtype)
                biases.append(bias.astype(self.dtype))
        y = ops.inception_depthwise_conv2d(maps, *kernels)
        if self.use_bias:
            y = y + spread(jnp.concatenate(biases), y)
        return y

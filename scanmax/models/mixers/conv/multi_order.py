"""SpaRTAN's spatial mixer: near and far convolutions of half the channels, each gated."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import LayerScale
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.models.parts.conv_norm import ConvNorm, he_init


class MultiOrder(MapMixer):
    """Convolutions of two reaches over what differs from the mean, gated by channels.

        z = W_in x,    u = z + s (z - mean z),    y = W_out [g(near u), g'(far u)]

    near is a convolution of 3 by 3, far two of them with gaps between their taps, W_in halves the
    channels; a batch norm and an activation follow near and far.

    Attributes:
      dense_convs: all channels meet in the convolutions, as in the first stages of the paper's
        network; otherwise they are depthwise.
      reduction: of the gates' hidden layers.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = "y = W [g(u * k_3x3), g'(u * l_3x3 * m_3x3)],  u = z + s (z - mean z)"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("spartan",)

    dense_convs: bool = False
    reduction: int = 4
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        if dim % 2:
            raise UserError(f"multi_order halves the channels; {dim} is odd")
        own = {"kernel_init": he_init}
        z = self.dense(dim // 2, ("embed", "mlp"), "in_proj", **own)(maps)
        scale = LayerScale(1e-5, name="contrast", **self.dtypes)
        z = z + scale(z - jnp.mean(z, axis=(1, 2), keepdims=True))
        near = self.convolve(dim // 2, "near")(z, train)
        far = self.convolve(dim // 2, "far0", dilation=2, use_norm=False, activation=None)(z, train)
        far = self.convolve(dim // 2, "far1", dilation=2)(far, train)
        gated = [self.gate("near_gate")(near), self.gate("far_gate")(far)]
        y = jnp.concatenate(gated, axis=-1)
        return self.dense(dim, ("mlp", "embed"), "out_proj", **own)(y)

    @nn.nowrap
    def convolve(self, width: int, name: str, **fields) -> ConvNorm:
        return ConvNorm(
            width,
            groups=1 if self.dense_convs else width,
            **{"activation": "gelu", **fields},
            norm_epsilon=1e-6,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name=name,
            **self.dtypes,
        )

    @nn.nowrap
    def gate(self, name: str) -> SqueezeExcite:
        return SqueezeExcite(reduction=self.reduction, name=name, **self.dtypes)

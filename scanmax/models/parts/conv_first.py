"""Blocks whose layers one kernel may compute: the convolution first, or in the middle."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.parts.conv_norm import ConvNorm


class ConvFirst(nn.Module):
    """x + project(expand(conv(x))): the convolution of few channels reads the narrow map.

    Every layer ends in a batch norm, and the wide map is bent. Channels meet in groups, which
    raises the operations for each byte that the convolution moves over those of a depthwise one.

    Attributes:
      features: channels of the result; as many as of x make the block residual at stride 1.
      kernel_size: of the convolution.
      stride: of the convolution.
      group_width: channels of the convolution that meet; 1 is depthwise.
      expansion: width between the two maps of pixels over that of x.
      activation: a name of ACTIVATIONS.
      norm_momentum: weight of the old averages at each training step.
      frozen_statistics: batch norms keep their averages, in training too.

    Reference: convfirst-block-fusion
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    group_width: int = 8
    expansion: int = 4
    activation: str = "silu"
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        dim, wide = x.shape[-1], self.expansion * x.shape[-1]
        y = self.convolve(dim, dim, "conv", None)(x, train)
        y = self.layer(wide, "expand", self.activation)(y, train)
        y = self.layer(self.features, "project", None)(y, train)
        return y + x if y.shape == x.shape else y

    @nn.nowrap
    def convolve(self, channels: int, features: int, name: str, bend: str | None) -> ConvNorm:
        """The convolution of a map of so many channels."""
        if channels % self.group_width:
            raise UserError(f"group_width={self.group_width} does not divide {channels} channels")
        own = {"kernel_size": self.kernel_size, "stride": self.stride}
        return self.layer(features, name, bend, groups=channels // self.group_width, **own)

    @nn.nowrap
    def layer(self, features: int, name: str, bend: str | None, **fields: Any) -> ConvNorm:
        """A convolution, of single pixels where nothing else is said, and its norm."""
        return ConvNorm(
            features,
            **{"kernel_size": 1, **fields},
            activation=bend,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name=name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )


class MbConv(ConvFirst):
    """x + project(conv(expand(x))): the convolution reads the wide map.

    Fields are those of `ConvFirst`.

    Reference: convfirst-block-fusion
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        wide = self.expansion * x.shape[-1]
        y = self.layer(wide, "expand", self.activation)(x, train)
        y = self.convolve(wide, wide, "conv", self.activation)(y, train)
        y = self.layer(self.features, "project", None)(y, train)
        return y + x if y.shape == x.shape else y

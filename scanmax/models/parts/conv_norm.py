"""Convolution, batch norm, activation: what networks of the ResNet age are made of."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Conv, Initializer, activation, ones_init
from scanmax.models.parts.conditional import CondConv
from scanmax.models.parts.map_norms import norm_and_bend

# torch's kaiming_normal_ of mode fan_out, for ReLU.
he_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """activation(norm(conv(x))).

    Attributes:
      use_norm: without it the activation follows the convolution.
      padding: as in `Conv`; None keeps the size at stride 1, dilation (k // 2) on every side.
      experts: kernels of a `CondConv`, of which the caller says each image's shares; 0 has one
        kernel for all.
      activation: a name of ACTIVATIONS, or None.
      norm_layer: a name of MAP_NORMS; EvoNorms bend by themselves, in the activation's place.
      norm_momentum: weight of the old average at each training step; torch's momentum is the rest.
      frozen_statistics: training neither reads the batch's statistics nor moves the averages.
      scale_init: of the norm; zeros make a residual branch start as nothing.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    padding: str | int | tuple[tuple[int, int], tuple[int, int]] | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    use_norm: bool = True
    experts: int = 0
    activation: str | None = "relu"
    norm_layer: str = "batch"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    kernel_init: Initializer = he_init
    scale_init: Initializer = ones_init
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        train: bool = False,
        weights: Float[Array, "B n"] | None = None,
    ) -> Float[Array, "B Yo Xo F"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, padding = self.kernel_size, self.padding
        if padding is None:
            sides = (size, size) if isinstance(size, int) else size
            padding = tuple((self.dilation * (side // 2),) * 2 for side in sides)
        fields = {
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "kernel_init": self.kernel_init,
            "name": "conv",
            **dtypes,
        }
        if self.experts:
            x = CondConv(self.features, size, self.experts, **fields)(x, weights)
        else:
            x = Conv(self.features, size, **fields)(x)
        if not self.use_norm:
            return x if self.activation is None else activation(self.activation)(x)
        return norm_and_bend(
            x,
            train,
            kind=self.norm_layer,
            bend=self.activation,
            scale_init=self.scale_init,
            epsilon=self.norm_epsilon,
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            **dtypes,
        )


def halved(x: Float[Array, "B Y X C"]) -> Float[Array, "B Yo Xo C"]:
    """Averages of 2x2 places; those at an odd border are of what is there."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode="edge")
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))

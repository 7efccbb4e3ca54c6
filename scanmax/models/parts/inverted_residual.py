"""Inverted residuals: wide between, narrow outside, gated or not, kernels mixed or not."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense, DropPath, Initializer
from scanmax.models.parts.channel_attention import gate_by_swish
from scanmax.models.parts.conv_norm import ConvNorm


def normal_by_outputs(size: int, features: int) -> Initializer:
    """Normal of deviation sqrt(2 / (size^2 features)), of MobileNets; depthwise, one feature."""
    return nn.initializers.normal(math.sqrt(2 / (size**2 * features)))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, batch norms behind them; x added where it fits.

    Attributes:
      features: channels of the result.
      kernel_size: side of the depthwise kernel.
      stride: of the depthwise convolution.
      padding: of it, as in `ConvNorm`.
      expansion: channels between over those of x; 1 leaves the expansion out where
        `skip_expansion`.
      squeeze: hidden channels of a gate before the projection; 0 leaves the gate out.
      experts: kernels that each image mixes, of all three convolutions by one routing; 0 has one
        kernel for all.
      by_outputs: kernels start as MobileNets', by the outputs of each sum; else as ResNets'.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    features: int
    stride: int = 1
    expansion: float = 4.0
    activation: str = "relu"
    kernel_size: int = 3
    padding: str | int | None = None
    skip_expansion: bool = False
    squeeze: int = 0
    experts: int = 0
    by_outputs: bool = False
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        return self.summed(x, None, train)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def summed(self, x: Float[Array, "B Y X C"], drop_path_rate, train: bool) -> Array:
        """The branch, dropped at that rate and added to x where both have one shape."""
        y = self.branch(x, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            return y
        return x + DropPath()(y, drop_path_rate, train)

    @nn.nowrap
    def branch(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B Yo Xo F"]:
        """What is added."""
        weights = self.route(x)

        def conv_norm(x, features, size, name, **fields):
            if self.by_outputs:
                outputs = 1 if fields.get("groups", 1) > 1 else features
                fields["kernel_init"] = normal_by_outputs(size, outputs)
            layer = ConvNorm(
                features,
                size,
                experts=self.experts,
                norm_epsilon=self.norm_epsilon,
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=name,
                **{"activation": self.activation, **self.dtypes, **fields},
            )
            return layer(x, train, weights)

        width = round(x.shape[-1] * self.expansion)
        y = x
        if width != x.shape[-1] or not self.skip_expansion:
            y = conv_norm(y, width, 1, "expand")
        fields = {"stride": self.stride, "padding": self.padding, "groups": width}
        y = conv_norm(y, width, self.kernel_size, "conv", **fields)
        if self.squeeze:
            inits = (None, None)
            if self.by_outputs:
                inits = (normal_by_outputs(1, self.squeeze), normal_by_outputs(1, width))
            y = gate_by_swish(y, self.squeeze, inits, **self.dtypes)
        return conv_norm(y, self.features, 1, "project", activation=None)

    @nn.nowrap
    def route(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B n"] | None:
        """What each image takes of each kernel."""
        if not self.experts:
            return None
        bound = 1 / math.sqrt(self.experts + x.shape[-1])

        def init(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        axes = ("embed", None)
        layer = Dense(self.experts, axes, kernel_init=init, name="routing", **self.dtypes)
        return nn.sigmoid(layer(jnp.mean(x, axis=(1, 2))))

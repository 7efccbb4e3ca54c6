"""LSNet's convolution: a large kernel looks, a small one of each pixel's own gathers."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, fan_in_uniform, ones_init, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.conv_norm import ConvNorm


class LsConv(MapMixer):
    """LS convolution: kernels of 3 by 3 taps for each pixel, from a view of 7 by 7.

    The view is a pointwise, a large depthwise and a pointwise convolution of D / 2 channels, each
    behind it a batch norm; a linear map of it, group-normalised kernel by kernel over the map, are
    the taps. Channels share kernels as in `ops.small_kernel_aggregation`, and a batch norm ends it.

    Attributes:
      kernel_size: side of the large kernel.
      small_size: side of the pixels' own kernels.
      shared: channels for each kernel; divides D.
      merged: the form after training, where convolutions have their batch norms inside; the last
        norm stays, for what it scales is no convolution.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = "y_p = BN(sum_o w_po x_(p+o)),  w = GN(W relu(V DW_7x7(relu(U x))))"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("lsnet",)

    kernel_size: int = 7
    small_size: int = 3
    shared: int = 8
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, taps = maps.shape[-1], self.small_size**2
        if dim % self.shared:
            raise UserError(f"shared={self.shared} does not divide the width, {dim}")
        half, kernels = max(dim // 2, 1), dim // self.shared
        view = maps
        statistics = {"frozen_statistics": self.frozen_statistics, **self.dtypes}
        layers = {"into": (1, "relu"), "look": (self.kernel_size, None), "onward": (1, "relu")}
        for name, (size, act) in layers.items():
            view = ConvNorm(
                half,
                size,
                groups=half if name == "look" else 1,
                activation=act,
                use_bias=self.merged,
                use_norm=not self.merged,
                norm_momentum=self.norm_momentum,
                kernel_init=fan_in_uniform(),
                name=name,
                **statistics,
            )(view, train)
        weights = self.dense(taps * kernels, ("embed", "mlp"), "taps")(view)
        scale = self.param(
            "norm_scale", partitioned(ones_init, ("mlp",)), weights.shape[-1:], self.param_dtype
        )
        bias = self.param(
            "norm_bias", partitioned(zeros_init, ("mlp",)), weights.shape[-1:], self.param_dtype
        )
        scale, bias = scale.astype(self.dtype), bias.astype(self.dtype)
        weights = ops.group_norm(weights, scale, bias, groups=kernels)
        weights = weights.reshape(*maps.shape[:-1], kernels, taps)
        y = ops.small_kernel_aggregation(maps, weights)
        return BatchNorm(momentum=self.norm_momentum, name="norm", **statistics)(y, train)

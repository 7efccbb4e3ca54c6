"""A convolution of one-way filters as a mixer of maps."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import fan_in_uniform, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.ops.contract import spread


class OneWayConv(MapMixer):
    """A dense convolution factorised before training: R products of filters along one axis each.

    The 2 (D + k) weights of each product stand for the k^2 D^2 of the kernel. The published chain's
    rank, the order of its filters and what stands between them are not settled by its text: here
    it is the sum of products, with nothing between.

    Attributes:
      rank: R, products; None is D.
      kernel_size: k, taps along rows and along columns.
    """

    formula: ClassVar[str] = "y = sum_r u_r ((v_r . x) * a_r * b_r),  a_r down, b_r along"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("a-priori-1way-conv",)

    rank: int | None = None
    kernel_size: int = 3

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, taps = maps.shape[-1], self.kernel_size
        rank = dim if self.rank is None else self.rank
        factors = {
            "channels": ((dim, rank), ("embed", "mlp"), dim),
            "rows": ((taps, rank), (None, "mlp"), taps),
            "columns": ((taps, rank), (None, "mlp"), taps),
            "outputs": ((rank, dim), ("mlp", "embed"), rank),
        }
        weights = []
        for name, (shape, axes, inputs) in factors.items():
            last = (-1,) if name in ("channels", "outputs") else ()
            init = partitioned(fan_in_uniform(fan_in=inputs), axes, (-2,), last)
            weight = self.param(name, init, shape, self.param_dtype)
            weights.append(weight.astype(self.dtype))
        y = ops.cp_conv2d(maps, *weights)
        if self.use_bias:
            bias = self.param("bias", partitioned(zeros_init, ("embed",)), (dim,), self.param_dtype)
            y = y + spread(bias.astype(self.dtype), y)
        return y

"""SMT's scale-aware modulation as a mixer of maps."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, gelu, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.ops.contract import spread

normal = nn.initializers.normal


class MixedHeadConv(nn.Module):
    """Depthwise convolutions, each head's with kernels of its own size.

    Attributes:
      heads: into how many the channels are cut.
      first_size: side of the first head's kernels; each other's is larger by 2 than the one before.
    """

    heads: int = 4
    first_size: int = 3
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        kernels, biases, width = [], [], x.shape[-1] // self.heads
        for head in range(self.heads):
            size = self.first_size + 2 * head
            # The deviation of torch's fan out with gain 2, of one channel.
            init = partitioned(
                normal(2**0.5 / size), (None, None, None, "conv_out"), inputs=(-4, -3, -2)
            )
            shape = (size, size, 1, width)
            kernel = self.param(f"kernel{head}", init, shape, self.param_dtype)
            kernels.append(kernel.astype(self.dtype))
            if self.use_bias:
                init = partitioned(zeros_init, ("conv_out",))
                bias = self.param(f"bias{head}", init, (width,), self.param_dtype)
                biases.append(bias.astype(self.dtype))
        y = ops.mixed_head_conv2d(x, kernels)
        return y + spread(jnp.concatenate(biases), y) if self.use_bias else y


class ScaleAwareAggregation(nn.Module):
    """From the same channel of every head to `expansion` times as many.

    Attributes:
      heads: how many lie side by side in the channels.
      expansion: channels that come out over those that come in.
    """

    heads: int = 4
    expansion: int = 2
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X F"]:
        outputs = self.heads * self.expansion
        init = partitioned(
            normal((2 / outputs) ** 0.5), (None, "conv_out", None), inputs=(-3,), outputs=(-1,)
        )
        shape = (self.heads, x.shape[-1] // self.heads, outputs)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        y = ops.scale_aware_aggregation(x, kernel)
        if not self.use_bias:
            return y
        init = partitioned(zeros_init, ("conv_out",))
        bias = self.param("bias", init, y.shape[-1:], self.param_dtype)
        return y + spread(bias.astype(self.dtype), y)


class ScaleAware(MapMixer):
    """SMT's modulation: values times what convolutions of several sizes say of their place.

        y = W (A(conv(S x)) * V x),    A = dense(gelu(norm(aggregate)))

    The channels of S x are cut into `scales` heads, convolved 3 by 3, 5 by 5 and so on; the
    aggregation gathers the same channel of every head.

    Attributes:
      scales: how many heads; they must divide the width.
      first_size: side of the smallest kernels.
      expansion: channels of the hidden layer of A over the width.
      norm_momentum: weight of the old averages of the batch norm at each training step.
      frozen_statistics: the batch norm keeps its averages, in training too.
    """

    formula: ClassVar[str] = "y = W (A([S_1 x * k_3x3, S_2 x * k_5x5, ...]) * V x)"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("smt",)

    scales: int = 4
    first_size: int = 3
    expansion: int = 2
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, options = maps.shape[-1], {"use_bias": self.use_bias, **self.dtypes}
        if dim % self.scales:
            raise UserError(f"scales={self.scales} do not divide the width {dim}")
        value = self.dense(dim, ("embed", "mlp"), "value")(maps)
        y = self.dense(dim, ("embed", "mlp"), "signal")(maps)
        y = MixedHeadConv(heads=self.scales, first_size=self.first_size, name="convs", **options)(y)
        y = ScaleAwareAggregation(
            heads=self.scales, expansion=self.expansion, name="aggregate", **options
        )(y)
        y = BatchNorm(
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="norm",
            **self.dtypes,
        )(y, train)
        # torch's fan out of a 1 x 1 convolution with gain 2.
        init = {"kernel_init": normal((2 / dim) ** 0.5)}
        y = self.dense(dim, ("mlp", "embed"), "modulator", **init)(gelu(y))
        return self.dense(dim, ("mlp", "embed"), "out")(y * value)

"""Gates of maps as modules, by name: a block takes `channel_attention=` any of CHANNEL_ATTENTION.

They stand on a residual branch before it is added, as in the papers' residual networks.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    Initializer,
    fan_in_uniform,
    normal_init,
    partitioned,
    zeros_init,
)


class ChannelAttention(nn.Module):
    """Base of gates: `Gate()(x [B, Y, X, C], train=False) -> [B, Y, X, C]`."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def weights(self, name: str, shape: tuple[int, ...], axes, fan_in: int, *maps) -> Array:
        init = partitioned(fan_in_uniform(fan_in=fan_in), axes, *maps)
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def mlp(self, channels: int, reduction: int, use_bias: bool) -> tuple[Array | None, ...]:
        """Weights and biases of C -> C / reduction -> C."""
        reduced = max(channels // reduction, 1)
        maps = ((-2,), (-1,))
        squeeze = self.weights("squeeze", (channels, reduced), ("embed", "mlp"), channels, *maps)
        excite = self.weights("excite", (reduced, channels), ("mlp", "embed"), reduced, *maps)
        if not use_bias:
            return squeeze, excite, None, None

        def bias(name, axis, size):
            init = partitioned(zeros_init, (axis,))
            return self.param(name, init, (size,), self.param_dtype).astype(self.dtype)

        first, second = bias("squeeze_bias", "mlp", reduced), bias("excite_bias", "embed", channels)
        return squeeze, excite, first, second

    @nn.nowrap
    def taps(self, name: str, size: int | None, channels: int) -> Array:
        size = adaptive_kernel_size(channels) if size is None else size
        return self.weights(name, (size,), (None,), size, (-1,))


def adaptive_kernel_size(channels: int) -> int:
    """The odd number at |log2(C) + 1| / 2 that ECA-Net takes.

    >>> [adaptive_kernel_size(channels) for channels in (8, 64, 256, 2048)]
    [3, 3, 5, 7]
    """
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


class SqueezeExcite(ChannelAttention):
    """Squeeze-and-excitation.

    Attributes:
      reduction: the hidden layer has C / reduction channels.
      gate: "sigmoid" or "hard_sigmoid".

    Reference: se-net
    """

    reduction: int = 16
    gate: str = "sigmoid"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        weights = self.mlp(x.shape[-1], self.reduction, self.use_bias)
        return ops.squeeze_excite(x.astype(self.dtype), *weights, gate=self.gate)


def gate_by_swish(
    x: Float[Array, "B Y X C"],
    hidden: int,
    inits: tuple[Initializer | None, Initializer | None] = (None, None),
    **dtypes: Any,
) -> Float[Array, "B Y X C"]:
    """Squeeze-and-excitation of MobileNets: with SiLU between, in layers of the module that calls.

    Args:
      x: maps.
      hidden: channels of the hidden layer.
      inits: of the kernels of both layers, "squeeze" and "excite"; None is that of `Dense`.
      dtypes: of both layers.
    """
    first, second = (normal_init if init is None else init for init in inits)
    axes, channels = ("conv_in", "conv_out"), x.shape[-1]
    gate = jnp.mean(x, axis=(1, 2), keepdims=True)
    gate = Dense(hidden, axes, kernel_init=first, name="squeeze", **dtypes)(gate)
    gate = Dense(channels, axes, kernel_init=second, name="excite", **dtypes)(jax.nn.silu(gate))
    return x * nn.sigmoid(gate)


class EfficientChannelAttention(ChannelAttention):
    """ECA: gates from neighbouring channels.

    Attributes:
      kernel_size: how many channels set a gate, odd; None goes by the number of channels.

    Reference: pkcam
    """

    kernel_size: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        kernel = self.taps("kernel", self.kernel_size, x.shape[-1])
        return ops.efficient_channel_attention(x.astype(self.dtype), kernel)


class Cbam(ChannelAttention):
    """CBAM: the channel gate, then the spatial one with its batch norm.

    Attributes:
      reduction: the channel gate's hidden layer has C / reduction channels.
      kernel_size: side of the spatial gate's convolution.
      use_bias: biases in the channel gate: the released code has them, timm has not.
      momentum: weight of the old average in the norm.

    Reference: cbam
    """

    reduction: int = 16
    kernel_size: int = 7
    use_bias: bool = True
    momentum: float = 0.99

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        weights = self.mlp(x.shape[-1], self.reduction, self.use_bias)
        x = ops.cbam_channel_gate(x.astype(self.dtype), *weights)
        init = {"use_bias": False, "kernel_init": fan_in_uniform()}
        conv = Conv(1, self.kernel_size, name="spatial", **init, **dtypes)
        # the norm may need the batch: ops.cbam_spatial_gate with its parts apart
        logits = BatchNorm(momentum=self.momentum, name="norm", **dtypes)(
            conv(ops.channel_summary(x)), train
        )
        return x * jax.nn.sigmoid(logits)


class Pkcam(ChannelAttention):
    """PKCAM: ECA that also reads the means of earlier stages.

    `Pkcam()(x, previous)`: previous are means [B, C_i] of the last block of each earlier stage,
    jnp.mean(x, (1, 2)) of what their gates got; without any it is the released first block,
    x (1 + gate) with the local gate alone.

    Attributes:
      kernel_size: of both gates, odd; None goes by the number of channels.

    Reference: pkcam
    """

    kernel_size: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        previous: Sequence[Float[Array, "B _"]] = (),
        train: bool = False,
    ) -> Float[Array, "B Y X C"]:
        x, channels = x.astype(self.dtype), x.shape[-1]
        local = self.taps("local", self.kernel_size, channels)
        if not previous:
            return x + ops.efficient_channel_attention(x, local)
        count = len(previous) + 1
        return ops.pkcam(
            x,
            tuple(mean.astype(self.dtype) for mean in previous),
            local,
            self.taps("global", self.kernel_size, channels),
            self.weights("fusion", (count,), (None,), count),
            self.weights("output_fusion", (2,), (None,), 2),
        )


CHANNEL_ATTENTION: dict[str, type[ChannelAttention]] = {
    "cbam": Cbam,
    "eca": EfficientChannelAttention,
    "se": SqueezeExcite,
}


def create_channel_attention(kind: str, **fields: Any) -> ChannelAttention:
    """The gate of that name; UserError lists the others."""
    if kind not in CHANNEL_ATTENTION:
        raise UserError(f"unknown channel attention {kind!r}; {suggest(kind, CHANNEL_ATTENTION)}")
    return CHANNEL_ATTENTION[kind](**fields)

"""Convolutions of two sizes, and for each channel a choice between them (selective kernels)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import BatchNorm, Dense, fan_in_uniform
from scanmax.models.parts.conv_norm import ConvNorm

PATHS = 2


class SelectiveKernel(nn.Module):
    """y = sum_p a_p u_p, a = softmax_p(W_p relu(norm(W mean(u_0 + u_1)))), a number per channel.

    u_0 is a 3x3 convolution with its norm and activation, u_1 one of 5x5 with every second tap.

    Attributes:
      features: channels that come out.
      split_input: each convolution reads its own half of the channels, as timm's light ones do.
      reduction: channels between W and W_p, over the features: a share, in multiples of `divisor`.
    """

    features: int
    stride: int = 1
    groups: int = 1
    split_input: bool = True
    reduction: float = 1 / 16
    divisor: int = 8
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inputs = [x] * PATHS
        if self.split_input:
            if x.shape[-1] % PATHS:
                raise ValueError(f"x has shape {x.shape}; split_input needs an even last axis.")
            inputs = jnp.split(x, PATHS, axis=-1)
        maps = []
        for path, part in enumerate(inputs):
            conv = ConvNorm(
                self.features,
                3,
                stride=self.stride,
                dilation=path + 1,
                groups=min(self.groups, self.features),
                norm_epsilon=self.norm_epsilon,
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=f"path{path}",
                **dtypes,
            )
            maps.append(conv(part, train))
        options = {"use_bias": False, "kernel_init": fan_in_uniform(), **dtypes}
        mean = jnp.mean(sum(maps), axis=(1, 2))
        y = Dense(self.hidden, ("embed", "mlp"), name="squeeze", **options)(mean)
        norm = BatchNorm(
            self.norm_epsilon,
            self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="norm",
            **dtypes,
        )
        y, axes = nn.relu(norm(y, train)), ("mlp", None, "embed")
        y = Dense((PATHS, self.features), axes, name="select", **options)(y)
        weights = jax.nn.softmax(y, axis=1)[:, :, None, None]
        return sum(weights[:, path] * part for path, part in enumerate(maps))

    @property
    def hidden(self) -> int:
        """Channels of the squeezed mean: the nearest multiple of at least nine tenths."""
        share, step = self.features * self.reduction, self.divisor
        hidden = max(step, int(share + step / 2) // step * step)
        return hidden + step if hidden < 0.9 * share else hidden

"""SpaRTAN's mixer of channels: waves, a convolution, a gate."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, gelu, partitioned
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.models.parts.conv_norm import ConvNorm, he_init


class WaveMlp(nn.Module):
    """Wave-based channel aggregation, on tokens of a grid.

        y = W g(conv(ops.wave_aggregation(x, gelu(P x), A x, r)))

    Attributes:
      expansion: width between over that of x.
      grouped: the `expansion` channels of a group meet in the convolution; otherwise none do.
      norm_momentum: weight of the old averages of the batch norm at each training step.
      frozen_statistics: the batch norm keeps its averages, in training too.

    Reference: spartan
    """

    expansion: int = 4
    grouped: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], grid: tuple[int, int] | None, train: bool = False
    ) -> Float[Array, "B T D"]:
        if grid is None:
            raise ValueError("WaveMlp convolves over a grid; this host has none.")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        own = {"kernel_init": he_init, **dtypes}
        dim = x.shape[-1]
        width = self.expansion * dim
        phase = gelu(Dense(width, ("embed", "mlp"), name="phase", **own)(x))
        amplitude = Dense(width, ("embed", "mlp"), name="amplitude", **own)(x)
        # It decays, as in the release.
        init = partitioned(nn.initializers.normal(1.0), ("mlp", None), inputs=(-1,))
        rotation = self.param("rotation", init, (width // 2, 2), self.param_dtype)
        y = ops.wave_aggregation(x.astype(self.dtype), phase, amplitude, rotation)
        conv = ConvNorm(
            width,
            groups=dim if self.grouped else width,
            activation="gelu",
            norm_epsilon=1e-6,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="conv",
            **dtypes,
        )
        y = conv(y.reshape(x.shape[0], *grid, width), train)
        # A quarter of the width before it was widened.
        y = SqueezeExcite(reduction=4 * self.expansion, name="gate", **dtypes)(y)
        y = Dense(dim, ("mlp", "embed"), name="out", **own)(y)
        return y.reshape(x.shape)

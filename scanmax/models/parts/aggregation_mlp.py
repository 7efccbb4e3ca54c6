"""DHVT's MLP: convolved over the grid, and what it makes there scales the prefix tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import BatchNorm, Conv, Dense, activation, fan_in_uniform


class AggregationMlp(nn.Module):
    """Dynamic aggregation feed-forward, on tokens of a grid behind their prefix.

        h = gelu(BN(W_1 x)),    y = BN(W_2 (h + gelu(BN(h * k)))),    y_prefix = x_prefix s
        s = W_4 gelu(W_3 mean y)

    Attributes:
      hidden: width between.
      prefix_tokens: leading tokens outside the grid, which s scales.
      reduction: the hidden layer of s has D / reduction channels.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    hidden: int
    prefix_tokens: int = 1
    activation: str = "gelu"
    reduction: int = 4
    use_bias: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], grid: tuple[int, int] | None, train: bool = False
    ) -> Float[Array, "B T D"]:
        if grid is None:
            raise ValueError("AggregationMlp convolves over a grid; this host has none.")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": self.use_bias, "kernel_init": fan_in_uniform(), **dtypes}
        statistics = {
            "momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            **dtypes,
        }
        dim, act = x.shape[-1], activation(self.activation)
        prefix, tokens = jnp.split(x, [self.prefix_tokens], axis=1)
        y = Dense(self.hidden, ("embed", "mlp"), name="fc1", **options)(tokens)
        y = act(BatchNorm(name="norm1", **statistics)(y, train))
        conv = Conv(self.hidden, 3, groups=self.hidden, name="conv", **options)
        z = conv(y.reshape(y.shape[0], *grid, self.hidden)).reshape(y.shape)
        y = y + act(BatchNorm(name="norm2", **statistics)(z, train))
        y = Dense(dim, ("mlp", "embed"), name="fc2", **options)(y)
        y = BatchNorm(name="norm3", **statistics)(y, train)
        if not self.prefix_tokens:
            return y
        options = {"use_bias": self.use_bias, **dtypes}
        scale = jnp.mean(y, axis=1, keepdims=True)
        hidden = max(dim // self.reduction, 1)
        scale = act(Dense(hidden, ("embed", "mlp"), name="compress", **options)(scale))
        scale = Dense(dim, ("mlp", "embed"), name="expand", **options)(scale)
        return jnp.concatenate([prefix.astype(y.dtype) * scale, y], axis=1)

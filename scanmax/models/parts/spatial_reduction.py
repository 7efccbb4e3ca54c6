"""Residual spatial reduction: a convolution shrinks the map, and what it shrinks is kept beside."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Conv, Dense, LayerNorm, fan_in_uniform
from scanmax.models.parts.conv_norm import halved
from scanmax.models.parts.positions import learned_positions


class ResidualReduction(nn.Module):
    """norm, a 3x3 convolution of stride 2 and positions, beside the means of 2x2 pixels.

    The means are of what comes in, channels of nothing behind them. Prefix tokens, of one norm with
    the pixels, pass a linear map, they themselves beside it.

    Attributes:
      features: channels that come out; no fewer than come in.
      fitted: (Y, X) of the map that comes out for which the table of positions is made; for another
        it is resampled.

    Reference: vit-resnas
    """

    features: int
    fitted: tuple[int, int]
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, prefix: Float[Array, "B P C"], x: Float[Array, "B Y X C"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B Yo Xo D"]]:
        """(prefix tokens, the map of half the sides)."""
        more = self.features - x.shape[-1]
        if more < 0 or x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(
                f"x has shape {x.shape}; expected an even number of rows and of columns and no "
                f"more than {self.features} channels."
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        tokens = jnp.concatenate([prefix, jax.lax.collapse(x, 1, 3)], 1)
        normed = LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(tokens)
        first, rest = jnp.split(normed, [prefix.shape[1]], 1)
        shrink = Conv(
            self.features,
            3,
            stride=2,
            padding=1,
            kernel_init=fan_in_uniform(),
            name="conv",
            **dtypes,
        )
        y = shrink(rest.reshape(x.shape))
        table = learned_positions(self, self.features, self.fitted, y.shape[1:3])
        y = y + table.astype(y.dtype).reshape(1, *y.shape[1:])
        y = y + jnp.pad(halved(x), ((0, 0), (0, 0), (0, 0), (0, more)))
        linear = Dense(self.features, ("embed", "mlp"), name="tokens", **dtypes)
        first = linear(first) + jnp.pad(prefix, ((0, 0), (0, 0), (0, more)))
        return first, y

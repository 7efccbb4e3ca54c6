"""An MLP whose hidden layer is convolved over the grid, so that it knows places."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import (
    Conv,
    Dense,
    Initializer,
    activation,
    constrain_last,
    normal_init,
)

# torch's fan out of one channel with gain 2, as PVTv2 draws it: 9 taps.
depthwise_init = nn.initializers.normal((2 / 9) ** 0.5)

ORDERS = ("conv, activation", "activation, conv")


def on_levels(
    functions: Sequence[Callable[[Array], Array]],
    x: Float[Array, "B T D"],
    shapes: Sequence[tuple[int, int]],
) -> Float[Array, "B T E"]:
    """Each level of a row of maps, one behind the other, as a map through a function of its own."""
    parts, first = [], 0
    for function, shape in zip(functions, shapes, strict=True):
        size = math.prod(shape)
        y = x[:, first : first + size]
        parts.append(jax.lax.collapse(function(y.reshape(y.shape[0], *shape, -1)), 1, 3))
        first += size
    return jnp.concatenate(parts, 1)


class ConvMlp(nn.Module):
    """Dense, depthwise 3x3 convolution, activation, Dense, on tokens of a grid.

    The grid may be of several levels, ((Y, X), ...), which are convolved apart by one kernel.

    Attributes:
      hidden: width between.
      order: "conv, activation", or "activation, conv" as in RMT.
      skip: what the convolution makes is added to what it reads.
      gated: behind convolution and activation the hidden layer is a gate of another one.
      first_relu: a ReLU in front of the convolution, as in linear PVTv2.
    """

    hidden: int
    activation: str = "gelu"
    order: str = "conv, activation"
    skip: bool = False
    gated: bool = False
    first_relu: bool = False
    dense_init: Initializer = normal_init
    conv_init: Initializer = depthwise_init
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | tuple[tuple[int, int], ...],
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.order not in ORDERS:
            raise ValueError(f"order={self.order!r} is not one of {ORDERS}")
        conv_first = self.order == ORDERS[0]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options, width = {"use_bias": self.use_bias, **dtypes}, self.hidden
        dense = {"kernel_init": self.dense_init, **options}
        name = "gate" if self.gated else "fc1"
        y = constrain_last(Dense(width, ("embed", "mlp"), name=name, **dense)(x), "mlp")
        y = nn.relu(y) if self.first_relu else y
        act = activation(self.activation)
        y = y if conv_first else act(y)
        conv = Conv(width, 3, groups=width, kernel_init=self.conv_init, name="conv", **options)
        levels = grid if isinstance(grid[0], tuple) else (grid,)
        z = on_levels((conv,) * len(levels), y, levels)
        y = y + z if self.skip else z
        y = act(y) if conv_first else y
        y = y * Dense(width, ("embed", "mlp"), name="fc1", **dense)(x) if self.gated else y
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = Dense(x.shape[-1], ("mlp", "embed"), name="fc2", **dense)(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)

"""An MLP whose hidden layer is shifted in eight directions over the grid: it knows places."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, activation, constrain_last


class ShiftMlp(nn.Module):
    """Dense, a shift of eighths of the channels to the neighbours of each pixel, activation, Dense.

    The feed-forward layer of TCSR: weights as an MLP, the reach of a 3 by 3 convolution. The paper
    says groups of channels and no more; here they are those of `ops.shift_eight`.

    Attributes:
      hidden: width between; 8 divides it.
      steps: how far channels are shifted.

    Reference: tcsr
    """

    hidden: int
    steps: int = 1
    activation: str = "gelu"
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        if self.hidden % 8:
            raise UserError(f"hidden={self.hidden}: 8 must divide the channels that are shifted")
        options = {
            "use_bias": self.use_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        z = Dense(self.hidden, ("embed", "mlp"), name="fc1", **options)(x)
        z = activation(self.activation)(ops.shift_eight(z, steps=self.steps))
        z = dropout(constrain_last(z, "mlp"))
        return dropout(Dense(x.shape[-1], ("mlp", "embed"), name="fc2", **options)(z))

"""The transposed convolution that doubles a map, with its weights."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Initializer, fan_in_uniform, partitioned, zeros_init
from scanmax.ops.contract import spread


class Enlarge(nn.Module):
    """A transposed convolution of stride 2 to twice the size.

    Attributes:
      features: output channels.
      kernel_size: taps a side, even: pixels of the result that each of the input writes.
      kernel_init: None is torch's.
    """

    features: int
    kernel_size: int = 4
    use_bias: bool = True
    kernel_init: Initializer | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B U V F"]:
        size = self.kernel_size
        torch_init = fan_in_uniform(fan_in=size**2 * self.features)
        init = partitioned(
            torch_init if self.kernel_init is None else self.kernel_init,
            (None, None, "conv_in", "conv_out"),
            inputs=(-4, -3, -2),
            outputs=(-1,),
        )
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        y = ops.conv_transpose2d(x.astype(self.dtype), kernel, padding=size // 2 - 1)
        if not self.use_bias:
            return y
        init = partitioned(zeros_init, ("conv_out",))
        bias = self.param("bias", init, (self.features,), self.param_dtype).astype(self.dtype)
        return y + spread(bias, y)

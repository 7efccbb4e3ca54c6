"""CondConv: a convolution whose kernel each example mixes from several."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, Initializer, fan_in_uniform, partitioned, zeros_init


class CondConv(nn.Module):
    """Conditionally parameterised convolution, `ops.cond_conv2d`, with its routing.

    The weights of the kernels are sigmoids of a linear map of the mean pixel. The layers of a block
    may share those of one: give them as `weights`, and this layer has no routing of its own.

    Attributes:
      features: output channels.
      kernel_size: one size, or (ky, kx).
      experts: kernels.
      padding, stride, dilation, groups: as in `Conv`.
      kernel_init: of all kernels at once; None is torch's of a convolution.

    Reference: condconv
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    experts: int = 4
    stride: int | tuple[int, int] = 1
    padding: str | int | tuple[tuple[int, int], tuple[int, int]] = "SAME"
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], weights: Float[Array, "B n"] | None = None
    ) -> Float[Array, "B Yo Xo F"]:
        x, size = x.astype(self.dtype), self.kernel_size
        size = (size, size) if isinstance(size, int) else size
        if weights is None:
            routing = Dense(
                self.experts,
                ("embed", None),
                kernel_init=fan_in_uniform(),
                name="routing",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
            weights = jax.nn.sigmoid(routing(x.mean((1, 2))))
        inputs = x.shape[-1] // self.groups
        depthwise = inputs == 1 and self.groups == self.features
        axes = (None, None, None, None if depthwise else "conv_in", "conv_out")
        kernels = self.param(
            "kernel",
            partitioned(
                self.kernel_init or fan_in_uniform(fan_in=size[0] * size[1] * inputs),
                axes,
                inputs=(-4, -3, -2),
                outputs=() if depthwise else (-1,),
            ),
            (self.experts, *size, inputs, self.features),
            self.param_dtype,
        )
        biases = None
        if self.use_bias:
            init, shape = partitioned(zeros_init, (None, "conv_out")), (self.experts, self.features)
            biases = self.param("bias", init, shape, self.param_dtype).astype(self.dtype)
        return ops.cond_conv2d(
            x,
            kernels.astype(self.dtype),
            weights.astype(self.dtype),
            biases,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

"""The mixer of the published Mamba-2 language models: the causal `ssd` with its authors' start."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scanmax.models.layers import Dense, partitioned
from scanmax.models.mixers.ssm import Ssd


def fan_in_uniform(scale: float = 1.0, fan_in: int | None = None):
    """Initializer: uniform in +- scale / sqrt(fan_in), where torch's linear layers start.

    By default fan_in is read from the shape: all axes but the last.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = scale / np.sqrt(fan_in or np.prod(shape[:-1]))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Mamba2(Ssd):
    """Mamba-2: out(rms(ssd(conv(x, B, C), dt) * silu(z))), all five linear in the token.

    The sums are those of `Ssd`; the parameters start as the authors' do: uniform by fan-in, the
    output projection smaller by `out_scale`.

    Attributes:
      out_scale: factor on the initial output projection; a host of depth L gives 1 / sqrt(L).

    Reference: mamba2-ssd
    """

    state_size: int = 128
    use_bias: bool = False
    out_scale: float = 1.0

    @nn.nowrap
    def dense(self, features: int, axes, name: str) -> Dense:
        return Dense(
            features,
            axes,
            use_bias=self.use_bias,
            kernel_init=fan_in_uniform(self.out_scale if name == "out_proj" else 1.0),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @nn.nowrap
    def filter(self, size: tuple[int, ...], channels: int) -> tuple[Array, Array]:
        init = fan_in_uniform(fan_in=int(np.prod(size)))
        axes = (*(None,) * len(size), "mlp")
        shape = (*size, channels)
        kernel = self.param("conv_kernel", partitioned(init, axes), shape, self.param_dtype)
        bias = self.param("conv_bias", partitioned(init, axes[-1:]), shape[-1:], self.param_dtype)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

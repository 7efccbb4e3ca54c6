"""Networks that generate convolution kernels: functions of a coordinate, sampled where needed.

Every generator maps coordinates [*L, A] in A dimensions to kernel values [*L, features]; mixers and
models choose one by its name in KERNELS. `ImplicitFilter` alone is a function of a lag.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.models.layers import (
    Dense,
    at_least_float32,
    fan_in_uniform,
    partitioned,
)


class ImplicitFilter(nn.Module):
    """Hyena's filter: sines of the lag through a small network, decaying at each channel's rate.

    h_s = exp(-rate |s|) W sin(f (... sin(f (W z_s + b)) ...)), z_s = (s, cos, sin), s in units of
    max_length - 1. Rates run over the channels so that the filter falls to 1 % within 0.3 to 1.5
    lengths. It is evaluated in at least float32, at any lag, also beyond max_length.

    Attributes:
      features: channels.
      hidden, layers: width of the network and number of its inner layers.
      frequency: f, which is trained and shared by the layers, at the start.
      position_features: numbers in z_s, odd.
    """

    features: int
    hidden: int = 16
    layers: int = 2
    frequency: float = 1.0
    position_features: int = 3
    max_length: int = 1024
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, lags: int) -> Float[Array, "L D"]:
        if self.position_features < 3 or self.position_features % 2 == 0:
            raise ValueError(f"position_features={self.position_features} must be odd, at least 3.")
        dtype = at_least_float32(self.dtype)
        index = np.arange(lags)
        time = (index / max(self.max_length - 1, 1))[:, None]
        bands = (self.position_features - 1) // 2
        angle = 2 * np.pi * index[:, None] / self.max_length * np.linspace(1e-4, bands - 1, bands)
        places = np.concatenate([time, np.cos(angle), -np.sin(angle)], axis=1)
        init = partitioned(nn.initializers.constant(self.frequency), (None,))
        frequency = self.param("frequency", init, (self.hidden,), self.param_dtype).astype(dtype)
        y = jnp.asarray(places, dtype)
        for layer in range(self.layers + 1):
            bound = fan_in_uniform(fan_in=y.shape[-1])
            y = Dense(
                self.hidden,
                (None, None),
                kernel_init=fan_in_uniform(),
                bias_init=bound,
                dtype=dtype,
                param_dtype=self.param_dtype,
                name=f"fc{layer}",
            )(y)
            y = jnp.sin(frequency[None] * y)
        y = Dense(
            self.features,
            (None, "embed"),
            use_bias=False,
            kernel_init=fan_in_uniform(),
            dtype=dtype,
            param_dtype=self.param_dtype,
            name="out",
        )(y)
        rates = np.abs(np.linspace(np.log(1e-2) / 1.5, np.log(1e-2) / 0.3, self.features))
        return y * jnp.asarray(np.exp(-time * rates[None]), dtype)

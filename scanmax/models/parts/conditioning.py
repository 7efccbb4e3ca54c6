"""What tells a network besides its images: times as waves, scales and offsets behind norms."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.models.layers import Dense
from scanmax.models.statistics import at_least_float32


def waves_of(times: Float[Array, "B"], width: int, longest: float = 10_000.0):
    """Cosines, then sines of times, [B, width]; width is even, periods grow to 2 pi longest.

    >>> waves_of(jnp.zeros(1), 4)[0].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    times = times.astype(at_least_float32(times.dtype))
    rates = longest ** -(np.arange(width // 2) / (width // 2))
    angles = times[:, None] * jnp.asarray(rates, times.dtype)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class TimeEmbed(nn.Module):
    """Dense, SiLU, Dense of the waves of times.

    Attributes:
      features: width that comes out, and between.
      waves: cosines and sines, together.
    """

    features: int
    waves: int = 256
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, times: Float[Array, "B"]) -> Float[Array, "B D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = Dense(self.features, ("embed", "mlp"), name="fc1", **dtypes)
        y = jax.nn.silu(hidden(waves_of(times, self.waves)))
        return Dense(self.features, ("mlp", "embed"), name="fc2", **dtypes)(y)


def modulated(
    x: Float[Array, "B T D"], shift: Float[Array, "B D"], scale: Float[Array, "B D"]
) -> Float[Array, "B T D"]:
    """(1 + scale) x + shift, of each example its own."""
    return x * (1 + scale[:, None]) + shift[:, None]

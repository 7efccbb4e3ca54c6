"""Channels of a place less their mean, brought to length one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import ones_init, partitioned
from scanmax.models.statistics import at_least_float32
from scanmax.ops.contract import spread


class LengthNorm(nn.Module):
    """Layer norm without a bias, divided by the root of the width: w c / max(|c|, epsilon).

    c is x less its mean over the last axis. The released code of ParCNetV2 has it so, where its
    comment and the paper have a layer norm.

    Reference: parcnetv2
    """

    epsilon: float = 1e-6
    axis: str = "embed"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        init = partitioned(ones_init, (self.axis,))
        scale = self.param("scale", init, x.shape[-1:], self.param_dtype).astype(self.dtype)
        y = x.astype(at_least_float32(self.dtype))
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        # The square is cut, not the root: at zero its gradient is finite.
        square = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.maximum(square, self.epsilon**2))
        return y.astype(self.dtype) * spread(scale, x)

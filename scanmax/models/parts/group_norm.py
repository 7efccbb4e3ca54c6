"""One mean and variance for all places and channels of an example."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import ones_init, partitioned, zeros_init


class GroupNorm(nn.Module):
    """Normalises an example by one mean and variance over its places and channels."""

    epsilon: float = 1e-5
    axis: str = "embed"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... C"]:
        shape, axes = x.shape[-1:], (self.axis,)
        scale = self.param("scale", partitioned(ones_init, axes), shape, self.param_dtype)
        bias = self.param("bias", partitioned(zeros_init, axes), shape, self.param_dtype)
        x, scale, bias = (array.astype(self.dtype) for array in (x, scale, bias))
        places = tuple(range(1 - x.ndim, -1))
        return ops.group_norm(x, scale, bias, groups=1, axes=places, epsilon=self.epsilon)

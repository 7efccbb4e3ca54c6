"""A learned weighted sum of outputs, which starts as the last of them."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.models.layers import partitioned


def last_init(key, shape, dtype):
    """Zeros, and a one at the last place."""
    return jnp.zeros(shape, dtype).at[-1].set(1)


def average(module: nn.Module, outputs: list[Array], name: str) -> Array:
    """The sum of what there is by weights that `module` learns; of one output alone, itself."""
    if len(outputs) == 1:
        return outputs[0]
    init = partitioned(last_init, (None,))
    weights = module.param(name, init, (len(outputs),), module.param_dtype)
    weights = weights.astype(outputs[0].dtype)
    return sum(weights[i] * y for i, y in enumerate(outputs))

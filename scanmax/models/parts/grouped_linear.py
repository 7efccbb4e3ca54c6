"""Linear maps of the last axis in groups: a matrix of blocks on the diagonal."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense, normal_init, partitioned, zeros_init
from scanmax.ops.contract import spread


class GroupedDense(nn.Module):
    """y_g = x_g W_g + b_g: each of `groups` shares of the features from the same share of x.

    Attributes:
      features: size of the new last axis, which `groups` divides, as it does that of x.
      groups: how many shares; a `Dense` is one.
      axes: logical axes of a share's matrix.
    """

    features: int
    groups: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T F"]:
        groups, inputs = self.groups, x.shape[-1]
        if inputs % groups or self.features % groups:
            raise ValueError(
                f"groups={groups} must divide the {inputs} features of x and the {self.features} "
                "of the result."
            )
        shape = (groups, inputs // groups, self.features // groups)
        init = partitioned(normal_init, (None, *self.axes), (-2,), (-1,))
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype).reshape(*x.shape[:-1], groups, shape[1])
        y = jnp.einsum("btgi,gio->btgo", x, kernel)
        y = y.reshape(*y.shape[:-2], self.features)
        init = partitioned(zeros_init, self.axes[1:])
        bias = self.param("bias", init, (self.features,), self.param_dtype)
        return y + spread(bias.astype(self.dtype), y)


def grouped_dense(features: int, groups: int, axes: tuple[str | None, str | None], **fields: Any):
    """A `GroupedDense`, or of one group the `Dense` that it is."""
    if groups == 1:
        return Dense(features, axes, **fields)
    return GroupedDense(features, groups, axes, **fields)

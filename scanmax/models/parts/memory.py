"""A memory of product keys in the place of an MLP: sigma-MoE's value memory."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, partitioned


class ProductKeyMemory(nn.Module):
    """sum_heads sum_(r in top_k) f(s_r) v_r, scores s of both halves of a token added.

    Each head scores keys^2 rows by two maps of D / 2 channels to `keys` scores; the values are
    shared by the heads. With f = relu it stands for an MLP of keys^2 hidden channels.

    Attributes:
      keys: of either half.
      top_k: rows that a head reads.
      heads: sets of keys.
      weights: "relu", or "softmax" over the rows that are read.

    Reference: sigma-moe-pkm
    """

    keys: int
    top_k: int
    heads: int = 1
    weights: str = "relu"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        dim = x.shape[-1]
        if dim % 2:
            raise UserError(f"a product-key memory halves its width, {dim}")
        halves = [
            Dense(
                (self.heads, self.keys),
                ("embed", "heads", None),
                use_bias=False,
                kernel_init=nn.initializers.normal(dim**-0.5),
                name=name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(half)
            for name, half in zip(("first", "second"), jnp.split(x.astype(self.dtype), 2, -1))
        ]
        # Values start as the second layer of that MLP would.
        init = partitioned(nn.initializers.normal(1 / self.keys), ("mlp", "embed"), (-2,), (-1,))
        values = self.param("values", init, (self.keys**2, dim), self.param_dtype)
        y = ops.product_key_memory(
            *halves, values.astype(self.dtype), top_k=self.top_k, weights=self.weights
        )
        return jnp.sum(y, axis=-2)

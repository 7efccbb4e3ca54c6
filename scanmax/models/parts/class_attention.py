"""Class attention (CaiT): the class token alone asks, once the patches are made."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, constrain


class ClassAttention(nn.Module):
    """What the leading tokens read from all: y = out(softmax(q_cls k^T) v), k and v of all tokens.

    Linear in the tokens. Patches do not change, so a block adds the result to the leading tokens.

    Attributes:
      heads: number of heads, a divisor of the width.
      query_tokens: leading tokens that ask (class, distillation).
      qkv_bias: biases of queries, keys and values.
    """

    heads: int
    query_tokens: int = 1
    qkv_bias: bool = True
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B Q D"]:
        dim = x.shape[-1]
        if dim % self.heads or not 1 <= self.query_tokens <= x.shape[1]:
            raise ValueError(
                f"x has shape {x.shape}; expected a width that heads={self.heads} divides, and at "
                f"least query_tokens={self.query_tokens} tokens, which must be positive."
            )
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, axes = (self.heads, dim // self.heads), ("embed", "heads", "kv")
        tokens = x[:, : self.query_tokens]
        query = Dense(width, axes, use_bias=self.qkv_bias, name="query", **options)(tokens)
        key = Dense(width, axes, use_bias=self.qkv_bias, name="key", **options)(x)
        value = Dense(width, axes, use_bias=self.qkv_bias, name="value", **options)(x)
        y = ops.dot_product_attention(query, key, value)
        y = constrain(y, ("batch", "length", "heads", "kv"))
        options |= {"contract": 2, "use_bias": self.use_bias}
        return Dense(dim, ("heads", "kv", "embed"), name="out", **options)(y)

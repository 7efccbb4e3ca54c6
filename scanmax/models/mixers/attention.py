"""Softmax attention as a module, and every other normalizer that the op takes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, LayerNorm, constrain
from scanmax.models.mixers.base import Mixer


class Attention(Mixer):
    """Multi-head dot-product attention with fused projections.

    Prefix tokens take part like any other: attention knows no order.

    Attributes:
      kv_heads: heads of keys and values, a divisor of heads; None is as many.
      normalizer: how logits become weights, a name of `ops.dot_product_attention`.
      qk_norm: LayerNorm over each head's queries and keys.
      rotary_base: base of rotary positions along the sequence; None leaves them out.
      local_window_size: tokens to the left (and right) that a token reads; None is all.
      logits_soft_cap: bounds the logits by cap * tanh(logits / cap); None leaves them.
    """

    kv_heads: int | None = None
    normalizer: str = "softmax"
    qk_norm: bool = False
    rotary_base: float | None = None
    local_window_size: int | tuple[int, int] | None = None
    logits_soft_cap: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim = x.shape[-1]
        query, key, value = self.project(x)
        if self.rotary_base is not None:
            start = 0 if state is None else state["length"]
            positions = start + jnp.arange(x.shape[1])
            query = ops.rotary(query, positions, base=self.rotary_base)
            key = ops.rotary(key, positions, base=self.rotary_base)
        heads = ("batch", "length", "heads", "kv")
        query = constrain(query, heads)
        keywords = {
            "normalizer": self.normalizer,
            "local_window_size": self.local_window_size,
            "logits_soft_cap": self.logits_soft_cap,
        }
        if state is None:
            keywords["is_causal"] = self.is_causal
            self.sow_attention(x.shape[1], lambda: ops.attention_matrix(query, key, **keywords))
        else:
            state, keywords["mask"] = self.extend(state, key, value)
            key, value = state["key"], state["value"]
        y = constrain(ops.dot_product_attention(query, key, value, **keywords), heads)
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def project(self, x: Float[Array, "B T D"]):
        """query [B, T, H, K], key and value [B, T, G, K], from one matrix product where G = H."""
        width, groups = self.head_dim(x.shape[-1]), self.kv_heads or self.heads
        axes = ("embed", None, "heads", "kv")
        if groups == self.heads:
            qkv = self.dense((3, self.heads, width), axes, "qkv")(x)
            query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query")(x)
            both = self.dense((2, groups, width), axes, "key_value")(x)
            key, value = both[:, :, 0], both[:, :, 1]
        if self.qk_norm:
            norm = {"axis": "kv", "dtype": self.dtype, "param_dtype": self.param_dtype}
            query = LayerNorm(name="query_norm", **norm)(query)
            key = LayerNorm(name="key_norm", **norm)(key)
        return query, key, value

    @nn.nowrap
    def dense(self, features, axes, name: str, contract: int = 1) -> Dense:
        return Dense(
            features,
            axes,
            contract=contract,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @nn.nowrap
    def extend(self, state, key, value):
        """The cache with the new tokens, and which of its places each of them reads [T, L]."""
        start, (_, length, *_) = state["length"], key.shape
        places = jnp.arange(state["key"].shape[1])
        tokens = start + jnp.arange(length)
        mask = places[None, :] <= tokens[:, None]
        write = (0, start, 0, 0)
        state = {
            "key": jax.lax.dynamic_update_slice(state["key"], key.astype(self.dtype), write),
            "value": jax.lax.dynamic_update_slice(state["value"], value.astype(self.dtype), write),
            "length": start + length,
        }
        return state, mask

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        shape = (batch_size, length, self.kv_heads or self.heads, self.head_dim(dim))
        return {
            "key": jnp.zeros(shape, self.dtype),
            "value": jnp.zeros(shape, self.dtype),
            "length": jnp.zeros((), jnp.int32),
        }

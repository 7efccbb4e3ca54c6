"""DHVT's attention: every head makes a token of its own, which joins the others."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import LayerNorm, gelu, normal_init, partitioned
from scanmax.models.mixers.base import Mixer


class HeadTokens(Mixer):
    """Softmax attention among the tokens and one more for each head: head-interacted attention.

        h_i = gelu(norm(W mean_t x_ti)) + p_i,    y = attention([x, h]),    x_ti: channels of head i

    W makes of the width of a head that of the model; the norm is over each head of the result. Of
    what the attention gives to h the mean is added to each prefix token, the rest falls away:
    without prefix tokens the others still read h.
    """

    formula: ClassVar[str] = "y = attention([x, h]), h_i = gelu(norm(W mean_t x_ti)) + p_i"
    cost: ClassVar[str] = "T^2"
    papers: ClassVar[tuple[str, ...]] = ("dhvt",)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("head_tokens has no causal form: its tokens are means of all others.")
        x, (batch, length, dim) = x.astype(self.dtype), x.shape
        heads, width = self.heads, self.head_dim(x.shape[-1])
        means = jnp.mean(x, axis=1).reshape(batch, heads, width)
        # [B, token, head, K]: each head's mean makes a whole token.
        tokens = self.dense((heads, width), ("kv", "heads", None), "project")(means)
        norm = LayerNorm(
            1e-5, axis="kv", dtype=self.dtype, param_dtype=self.param_dtype, name="norm"
        )
        tokens = gelu(norm(tokens)).reshape(batch, heads, dim)
        init = partitioned(normal_init, ("heads", "embed"))
        position = self.param("position", init, (heads, dim), self.param_dtype)
        tokens = tokens + position.astype(self.dtype)[None]
        joined = jnp.concatenate([x, tokens], axis=1)
        axes = ("embed", None, "heads", "kv")
        qkv = self.dense((3, heads, width), axes, "qkv")(joined)
        y = ops.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)
        prefix, others, made = jnp.split(y, [self.prefix_tokens, length], axis=1)
        prefix = prefix + jnp.mean(made, axis=1, keepdims=True)
        return jnp.concatenate([prefix, others], axis=1)

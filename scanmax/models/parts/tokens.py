"""Modules that change the number of tokens, or pool them: slimming, tokenizers, sets."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax import ops
from scanmax.models.layers import Dense, LayerNorm, Mlp, gelu, ones_init, partitioned


class TokenSlimming(nn.Module):
    """Fewer tokens, each a convex combination of all: softmax over the tokens of scale * MLP(x).

    Attributes:
      tokens: how many come out.
      ratio: hidden width over the model's.
    """

    tokens: int
    ratio: float = 0.5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B N D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, hidden = x.astype(self.dtype), int(x.shape[-1] * self.ratio)
        logits = Dense(hidden, ("embed", "mlp"), name="fc1", **dtypes)(
            LayerNorm(1e-5, name="norm", **dtypes)(x)
        )
        logits = Dense(self.tokens, ("mlp", None), name="fc2", **dtypes)(gelu(logits))
        scale = self.param("scale", partitioned(ones_init, ()), (), self.param_dtype)
        return ops.aggregate_tokens(x, logits * scale.astype(self.dtype))


class ReverseTokenSlimming(nn.Module):
    """The tokens before a slimming, guessed from those after it, for distillation alone.

    An MLP over the tokens of LayerNorm(x), without a residual, then x + MLP(LayerNorm(x)).

    Attributes:
      tokens: how many come out.
      ratio: hidden tokens over those that come out, and hidden width over the model's.
    """

    tokens: int
    ratio: float = 4.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = jnp.swapaxes(LayerNorm(1e-5, name="norm1", **dtypes)(x), 1, 2)
        y = Dense(int(self.tokens * self.ratio), (None, "mlp"), name="token_fc1", **dtypes)(y)
        y = Dense(self.tokens, ("mlp", None), name="token_fc2", **dtypes)(gelu(y))
        x = jnp.swapaxes(y, 1, 2)
        mlp = Mlp(int(x.shape[-1] * self.ratio), name="mlp", **dtypes)
        return x + mlp(LayerNorm(1e-5, name="norm2", **dtypes)(x))


class FilterTokenizer(nn.Module):
    """Semantic tokens of a map: softmax over the pixels of x W, times x.

    Attributes:
      tokens: L, how many.
    """

    tokens: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B L D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        filters = Dense(self.tokens, ("embed", None), use_bias=False, name="filter", **dtypes)
        x = x.astype(self.dtype)
        return ops.aggregate_tokens(x, filters(x))


class RecurrentTokenizer(nn.Module):
    """Semantic tokens guided by earlier ones: softmax over the pixels of x (t W)^T, times x."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], tokens: Float[Array, "B L E"]
    ) -> Float[Array, "B L D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = x.astype(self.dtype)
        guide = Dense(x.shape[-1], ("mlp", "embed"), use_bias=False, name="guide", **dtypes)(tokens)
        return ops.aggregate_tokens(x, jnp.einsum("btd,bld->btl", x, guide))


class TokenTransformer(nn.Module):
    """The layer between semantic tokens: t + softmax((t K) (t Q)^T) t, then t + relu(t F1) F2.

    Neither a norm nor a value projection nor a scale of the logits, as the paper writes it.

    Attributes:
      key_width: columns of K and Q; None is half the model's.
      hidden: columns of F1; None is the model's width.
    """

    key_width: int | None = None
    hidden: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        tokens, width = tokens.astype(self.dtype), tokens.shape[-1]
        keys = self.key_width or max(width // 2, 1)
        key, query = (self.dense(keys, ("embed", "kv"), name)(tokens) for name in ("key", "query"))
        weights = ops.softmax(jnp.einsum("blk,bmk->blm", key, query))
        mixed = tokens + jnp.matmul(weights, tokens)
        hidden = jax.nn.relu(self.dense(self.hidden or width, ("embed", "mlp"), "fc1")(mixed))
        return mixed + self.dense(width, ("mlp", "embed"), "fc2")(hidden)

    @nn.nowrap
    def dense(self, features: int, axes: tuple[str, str], name: str) -> Dense:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(features, axes, use_bias=False, name=name, **dtypes)


class TokenProjector(nn.Module):
    """Semantic tokens back on the map: softmax over the tokens of (x W_Q) (t W_K)^T, times t.

    The residual x + ... is left to the caller.

    Attributes:
      key_width: columns of W_Q and W_K; None is half the model's.
    """

    key_width: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], tokens: Float[Array, "B L D"]
    ) -> Float[Array, "B T D"]:
        tokens, width = tokens.astype(self.dtype), self.key_width or max(x.shape[-1] // 2, 1)
        options = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        query = Dense(width, ("embed", "kv"), name="query", **options)(x)
        key = Dense(width, ("embed", "kv"), name="key", **options)(tokens)
        return ops.dispatch_tokens(tokens, jnp.einsum("btk,blk->btl", query, key))


class AttentionalSetPool(nn.Module):
    """A set as one vector: softmax over the set of x W, feature by feature, times x (AttSets).

    With one element it is the identity, whatever W: what trains on single elements alone (the
    encoder, in the paper) leaves W without a gradient, and the paper trains W on larger sets alone.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], mask: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B D"]:
        options = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        x = x.astype(self.dtype)
        logits = Dense(x.shape[-1], ("embed", "mlp"), name="scores", **options)(x)
        return ops.set_pool(x, logits, mask)

"""Softmax attention as a module, and every other normalizer that the op takes."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense, LayerNorm, constrain
from scanmax.models.mixers.base import Mixer
from scanmax.ops.contract import align
from scanmax.ops.keeping import kept
from scanmax.ops.segments import segment_starts

SCALES = ("head", "model")


class PaddedCache(NamedTuple):
    """A cache, and for each row how many of its first places are of no use: another sequence's."""

    cache: Any
    hidden: Int[Array, " B"]


def last_sequence(segment_ids: Int[Array, "B T"], arrays: Sequence[Array], dtype: Any):
    """What an empty cache takes of packed rows, of which the last sequence goes on.

    Returns:
      the arrays [B, T, ...], zero in all but the last sequence of each row; how many places of a
      row those are, [B].
    """
    runs = jnp.cumsum(segment_starts(segment_ids), -1)
    others = runs != runs[:, -1:]
    hidden = jnp.sum(others, -1, dtype=dtype)
    return [jnp.where(align(others, x, x.ndim - 2), 0, x) for x in arrays], hidden


def visible(
    position: Int[Array, ""], length: int, places: int, window: int | tuple[int, int] | None
) -> Bool[Array, "T S"]:
    """Which places of a cache each of `length` tokens from `position` on reads."""
    left = window[0] if isinstance(window, tuple) else window
    tokens = (position + jnp.arange(length))[:, None]
    places = jnp.arange(places)[None]
    mask = places <= tokens
    return mask if left is None else mask & (places >= tokens - left)


def seen_places(hidden: Int[Array, " B"], places: int) -> Bool[Array, "B 1 S"]:
    """Which places of a cache are of use to each row, as `ops.attention_step` takes it."""
    return (jnp.arange(places)[None] >= hidden[:, None])[:, None]


class Attention(Mixer):
    """Multi-head dot-product attention with fused projections.

    Prefix tokens take part like any other: attention knows no order. Where the mesh in use has a
    `context` axis, whole sequences stay split over it: keys and values pass round its devices
    (`ops.context_attention`). With a bias by position or packed they are gathered on every device.

    Attributes:
      head_width: channels of a head; None shares the model's out among them.
      kv_heads: heads of keys and values, a divisor of heads; None is as many.
      normalizer: how logits become weights, a name of `ops.dot_product_attention`.
      qkv_bias: biases of queries, keys and values; None is as use_bias.
      scale: what the logits are divided by the root of: "head", the width of one, or "model".
      qk_norm: LayerNorm over each head's queries and keys.
      rotary_base: base of rotary positions along the sequence; None leaves them out.
      local_window_size: tokens to the left (and right) that a token reads; None is all.
      logits_soft_cap: bounds the logits by cap * tanh(logits / cap); None leaves them.
      implementation: the backend of whole sequences, "xla", "cudnn", "pallas" or "cpu", as of
        `ops.dot_product_attention`; None is the best that serves.
    """

    formula: ClassVar[str] = "y_t = sum_s softmax_s(q_t . k_s / sqrt K) v_s"
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    head_width: int | None = None
    kv_heads: int | None = None
    normalizer: str = "softmax"
    qkv_bias: bool | None = None
    scale: str = "head"
    qk_norm: bool = False
    rotary_base: float | None = None
    local_window_size: int | tuple[int, int] | None = None
    logits_soft_cap: float | None = None
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim = x.shape[-1]
        query, key, value = map(kept, self.project(x))
        hidden = None
        if isinstance(state, PaddedCache):
            state, hidden = state
        start = 0 if state is None else state.position
        query, key, value, loudness = self.condition(query, key, value, start)
        if self.scale not in SCALES:
            raise UserError(f"scale={self.scale!r} is not one of {', '.join(SCALES)}")
        # The op divides by the root of a head's width.
        query = query * self.heads**-0.5 if self.scale == "model" else query
        if self.rotary_base is not None:
            positions = None if state is None else start + jnp.arange(x.shape[1])
            query = ops.rotary(query, positions, base=self.rotary_base)
            key = ops.rotary(key, positions, base=self.rotary_base)
        heads = ("batch", "length", "heads", "kv")
        query = constrain(query, heads)
        packed = self.packed(segment_ids, state)
        if state is None or packed:
            y = self.mix(query, key, value, grid, loudness, **packed)
        if state is not None and packed:
            last, hidden = last_sequence(segment_ids, (key, value), state.position.dtype)
            state = PaddedCache(ops.extend_kv_cache(state, *last), hidden)
        elif state is not None:
            y, state = self.mix_cached(query, key, value, state, hidden)
            state = state if hidden is None else PaddedCache(state, hidden)
        y = constrain(self.weigh_heads(y, x, train), heads)
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def head_dim(self, width: int) -> int:
        return self.head_width or super().head_dim(width)

    @nn.nowrap
    def condition(self, query, key, value, start):
        """What becomes of the projections before they mix; their first token stands at `start`.

        Returns:
          query, key, value, and what the values were multiplied by, [B, T, H], or None.
        """
        return query, key, value, None

    @nn.nowrap
    def weigh_heads(self, y: Float[Array, "B T H K"], x: Float[Array, "B T D"], train: bool):
        """What the heads made of x, as the output projection takes it."""
        return y

    @nn.nowrap
    def keywords(self) -> dict[str, Any]:
        """The options of the op that a whole sequence and a cache share."""
        return {"normalizer": self.normalizer, "logits_soft_cap": self.logits_soft_cap}

    @nn.nowrap
    def bias(self, grid: tuple[int, int] | None, tokens: int):
        """Bias of a whole sequence, broadcasting to [B, H, T, T], or None."""
        return None

    @nn.nowrap
    def mix(self, query, key, value, grid, loudness, segment_ids=None):
        """Attention over a whole sequence, or over several in one row."""
        bias = self.bias(grid, query.shape[1])
        keywords = self.keywords() | {
            "is_causal": self.is_causal,
            "local_window_size": self.local_window_size,
        }
        packed = {"segment_ids": segment_ids}

        def matrix():
            weights = ops.attention_matrix(query, key, bias, **packed, **keywords)
            return weights if loudness is None else weights * loudness.swapaxes(1, 2)[:, :, None]

        self.sow_attention(query.shape[1], matrix)
        self.sow_projections(query, key, value)
        keywords["implementation"] = self.implementation
        if bias is None and segment_ids is None:
            return ops.context_attention(query, key, value, **keywords)
        return ops.dot_product_attention(query, key, value, bias, **packed, **keywords)

    @nn.nowrap
    def mix_cached(self, query, key, value, state, hidden=None):
        """Attention of new tokens over the cache and themselves: (y, the new cache)."""
        seen = None
        if hidden is not None:
            seen = seen_places(hidden, state.key.shape[1])
        if query.shape[1] == 1:
            y, state = ops.attention_step(
                state,
                query[:, 0],
                key[:, 0],
                value[:, 0],
                self.cache_bias(state, 1),
                seen,
                local_window_size=self.local_window_size,
                **self.keywords(),
            )
            return y[:, None], state
        bias = self.cache_bias(state, query.shape[1])
        mask = self.cache_mask(state, query.shape[1])
        mask = mask if seen is None else mask[None, None] & seen[:, None]
        state = ops.extend_kv_cache(state, key, value)
        key, value = (cache.astype(self.dtype) for cache in (state.key, state.value))
        y = ops.dot_product_attention(query, key, value, bias, mask, **self.keywords())
        return y, state

    @nn.nowrap
    def cache_bias(self, state: Any, length: int):
        """Bias of `length` new tokens over the cache: [H, T, S], [H, S] where T is 1, or None."""
        return None

    @nn.nowrap
    def project(self, x: Float[Array, "B T D"]):
        """query [B, T, H, K], key and value [B, T, G, K], from one matrix product where G = H."""
        width, groups = self.head_dim(x.shape[-1]), self.kv_heads or self.heads
        axes = ("embed", None, "heads", "kv")
        if groups == self.heads:
            dense = self.dense((3, self.heads, width), axes, "qkv", apart=True)
            query, key, value = dense(x)
        else:
            query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query")(x)
            key, value = self.dense((2, groups, width), axes, "key_value", apart=True)(x)
        if self.qk_norm:
            norm = {"axis": "kv", "dtype": self.dtype, "param_dtype": self.param_dtype}
            query = LayerNorm(name="query_norm", **norm)(query)
            key = LayerNorm(name="key_norm", **norm)(key)
        return query, key, value

    @nn.nowrap
    def dense(self, features, axes, name: str, **options: Any) -> Dense:
        use_bias = None if name == "out" else self.qkv_bias
        return super().dense(features, axes, name, use_bias, **options)

    @nn.nowrap
    def cache_mask(self, state: Any, length: int) -> Bool[Array, "T S"]:
        """Which places of the cache each of `length` new tokens reads."""
        return visible(state.position, length, state.key.shape[1], self.local_window_size)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        groups, width = self.kv_heads or self.heads, self.head_dim(dim)
        return ops.init_kv_cache((batch_size,), length, groups, width, dtype=self.dtype)

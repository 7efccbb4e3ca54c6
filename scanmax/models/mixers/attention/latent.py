"""Multi-head latent attention as a module: a cache of one narrow vector a token for all heads."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import RmsNorm, constrain, normal_init, partitioned
from scanmax.models.mixers.attention.dot_product import (
    PaddedCache,
    last_sequence,
    seen_places,
    visible,
)
from scanmax.models.mixers.base import Mixer


class LatentAttention(Mixer):
    """DeepSeek's attention: keys and values of all heads are up-projected from latents (MLA).

    A token leaves behind its latent c, normalized by its root mean square, and one key with a
    rotary position that all heads share; with a cache, where no more than these are kept, the
    up-projections are absorbed into queries and outputs. They have no bias for that reason, nor has
    the last projection of the queries. Prefix tokens take part like any other.

    Attributes:
      head_width: channels of a head without position; None shares the model's out among them.
      value_width: channels of a head's values; None is head_width.
      latent_dim: width of c; None is four heads (DeepSeek-V2), at most half of all of them.
      query_latent_dim: width of the latent that queries come from; None projects them at once.
      rotary_dim: channels of a head that have a position, and of the shared key, even; None is half
        of head_width, 0 leaves positions out.
      rotary_base: base of rotary positions along the sequence.
      rotary_layout: which channels pair up, as in `ops.rotary`; DeepSeek's are "interleaved".
      norm_epsilon: of the norms of latents.
      normalizer: how logits become weights, a name of `ops.dot_product_attention`.
      local_window_size: tokens to the left (and right) that a token reads; None is all.
      form: of whole sequences, as of `ops.latent_attention`.

    Reference: muon-mla-moe
    """

    formula: ClassVar[str] = "y_t = sum_s softmax_s(q_t . [U c_s, r_s] / sqrt K) W c_s"
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("muon-mla-moe",)
    packs: ClassVar[bool] = True

    head_width: int | None = None
    value_width: int | None = None
    latent_dim: int | None = None
    query_latent_dim: int | None = None
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    rotary_layout: str = "interleaved"
    norm_epsilon: float = 1e-6
    normalizer: str = "softmax"
    local_window_size: int | tuple[int, int] | None = None
    form: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        length, dim = x.shape[1:]
        hidden = None
        if isinstance(state, PaddedCache):
            state, hidden = state
        positions = None if state is None else state.position + jnp.arange(length)
        queries, latents = self.queries(x, positions), self.latents(x, positions)
        ups = self.up("key_up", dim, self.head_dim(dim)), self.up("value_up", dim, self.values(dim))
        packed = self.packed(segment_ids, state)
        if state is None or packed:
            y = self.mix(*queries, *latents, *ups, **packed)
        if state is not None and packed:
            last, hidden = last_sequence(segment_ids, latents, state.position.dtype)
            state = PaddedCache(ops.extend_latent_cache(state, *last), hidden)
        elif state is not None:
            y, state = self.mix_cached(state, hidden, *queries, *latents, *ups)
            state = state if hidden is None else PaddedCache(state, hidden)
        y = constrain(y, ("batch", "length", "heads", "kv"))
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def head_dim(self, width: int) -> int:
        return self.head_width or super().head_dim(width)

    @nn.nowrap
    def values(self, dim: int) -> int:
        """Channels of a head's values in a model of width dim."""
        return self.value_width or self.head_dim(dim)

    @nn.nowrap
    def sizes(self, dim: int) -> tuple[int, int]:
        """Widths of the latents and of the shared keys in a model of width dim."""
        width = self.head_dim(dim)
        latent = self.latent_dim or min(4 * width, max(self.heads * width // 2, 1))
        return latent, width // 4 * 2 if self.rotary_dim is None else self.rotary_dim

    @nn.nowrap
    def queries(self, x: Float[Array, "B T D"], positions):
        """Queries without and with positions, [B, T, H, K] and [B, T, H, R]."""
        dim = x.shape[-1]
        width, (_, rotary) = self.head_dim(dim), self.sizes(dim)
        axis = "embed"
        if self.query_latent_dim is not None:
            x = self.dense(self.query_latent_dim, ("embed", None), "query_down")(x)
            x, axis = self.norm("query_norm")(x), None
        dense = self.dense((self.heads, width + rotary), (axis, "heads", "kv"), "query", False)
        query = constrain(dense(x), ("batch", "length", "heads", "kv"))
        return query[..., :width], self.turned(query[..., width:], positions)

    @nn.nowrap
    def latents(self, x: Float[Array, "B T D"], positions):
        """Latents and shared keys, [B, T, C] and [B, T, R]."""
        latent, rotary = self.sizes(x.shape[-1])
        found = self.dense(latent + rotary, ("embed", None), "latent")(x)
        key = self.turned(found[..., None, latent:], positions)
        return self.norm("latent_norm")(found[..., :latent]), key[..., 0, :]

    @nn.nowrap
    def turned(self, x: Float[Array, "B T H R"], positions):
        """x with rotary positions."""
        if not x.shape[-1]:
            return x
        return ops.rotary(x, positions, base=self.rotary_base, layout=self.rotary_layout)

    @nn.nowrap
    def norm(self, name: str) -> RmsNorm:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return RmsNorm(self.norm_epsilon, name=name, **dtypes)

    @nn.nowrap
    def up(self, name: str, dim: int, width: int) -> Float[Array, "C H K"]:
        """The kernel from latents to each head."""
        init = partitioned(normal_init, (None, "heads", "kv"), (-3,), (-2, -1))
        shape = (self.sizes(dim)[0], self.heads, width)
        return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def mix(self, *arrays, segment_ids=None):
        """Attention over a whole sequence, or over several in one row."""
        keywords = {
            "is_causal": self.is_causal,
            "normalizer": self.normalizer,
            "local_window_size": self.local_window_size,
            "segment_ids": segment_ids,
        }
        tokens = arrays[0].shape[1]
        self.sow_attention(tokens, lambda: ops.latent_attention_matrix(*arrays[:-1], **keywords))
        return ops.latent_attention(*arrays, form=self.form, **keywords)

    @nn.nowrap
    def mix_cached(self, state, hidden, query, query_rotary, latent, key_rotary, *ups):
        """Attention of new tokens over the cache and themselves: (y, the new cache)."""
        length, (_, places, _) = query.shape[1], state.latent.shape
        seen = None if hidden is None else seen_places(hidden, places)
        if length == 1:
            token = (x[:, 0] for x in (query, query_rotary, latent, key_rotary))
            y, state = ops.latent_attention_step(
                state,
                *token,
                *ups,
                mask=seen,
                normalizer=self.normalizer,
                local_window_size=self.local_window_size,
            )
            return y[:, None], state
        mask = visible(state.position, length, places, self.local_window_size)
        mask = mask if seen is None else mask[None, None] & seen[:, None]
        state = ops.extend_latent_cache(state, latent, key_rotary)
        held, width = state.latent.astype(self.dtype), latent.shape[-1]
        held = held[..., :width], held[..., width:]
        keywords = {"normalizer": self.normalizer, "form": self.form}
        y = ops.latent_attention(query, query_rotary, *held, *ups, mask=mask, **keywords)
        return y, state

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        return ops.init_latent_cache((batch_size,), length, *self.sizes(dim), dtype=self.dtype)

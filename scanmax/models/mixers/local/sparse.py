"""Sparse attention as modules: factorised patterns, and windows of each head's own length."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import constrain
from scanmax.models.mixers.base import Mixer

# l of the published sparse transformers, for sequences that have no rows.
STRIDE = 128


class _Gathered(Mixer):
    """Attention that gathers its keys by a pattern: projections, positions and the cache.

    Attributes:
      kv_heads: heads of keys and values, a divisor of heads; None is as many.
      normalizer: how logits become weights, a name of `ops.NORMALIZERS` that needs one pass.
      rotary_base: base of rotary positions along the sequence; None leaves them out.
    """

    op: ClassVar[Callable]
    op_matrix: ClassVar[Callable]
    op_step: ClassVar[Callable]

    kv_heads: int | None = None
    normalizer: str = "softmax"
    rotary_base: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim, width, groups = x.shape[-1], self.head_dim(x.shape[-1]), self.kv_heads or self.heads
        query = self.dense((self.heads, width), ("embed", "heads", "kv"), "query")(x)
        axes = ("embed", None, "heads", "kv")
        key, value = self.dense((2, groups, width), axes, "key_value", apart=True)(x)
        if self.rotary_base is not None:
            positions = None if state is None else state.position + jnp.arange(x.shape[1])
            query = ops.rotary(query, positions, base=self.rotary_base)
            key = ops.rotary(key, positions, base=self.rotary_base)
        query = constrain(query, ("batch", "length", "heads", "kv"))
        if state is None:
            keywords = self.keywords(grid, x.shape[1]) | {"is_causal": self.is_causal}
            matrix = type(self).op_matrix
            self.sow_attention(x.shape[1], lambda: matrix(query, key, **keywords))
            y = type(self).op(query, key, value, **keywords)
        else:
            y, state = self.mix_cached(query, key, value, state)
        y = self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def mix_cached(self, query, key, value, state):
        """Attention of new tokens over the cache and themselves: (y, the new cache).

        A prompt into an empty cache costs what its own tokens do; tokens behind others, a run of
        the pattern over the whole cache.
        """
        room = state.key.shape[1]
        keywords = self.keywords(None, room)
        if query.shape[1] == 1:
            arrays = (x[:, 0] for x in (query, key, value))
            y, state = type(self).op_step(state, *arrays, **keywords)
            return y[:, None], state
        start, length = state.position, query.shape[1]
        state = ops.extend_kv_cache(state, key, value)

        def prompt(cache):
            return type(self).op(query, key, value, **keywords)

        def behind_others(cache):
            # The queries take their places among the cache's; the others stay empty. Without the
            # whole sequence the pattern's blocks would begin in the wrong place.
            keys, values = (x.astype(self.dtype) for x in (cache.key, cache.value))
            places = jnp.zeros((query.shape[0], room, *query.shape[2:]), query.dtype)
            queries = lax.dynamic_update_slice_in_dim(places, query, start, axis=1)
            y = type(self).op(queries, keys, values, **keywords)
            y = lax.dynamic_slice_in_dim(y, start, length, axis=1)
            return jnp.where(start + length <= room, y, jnp.full_like(y, jnp.nan))

        return lax.cond(start == 0, prompt, behind_others, state), state

    @nn.nowrap
    def keywords(self, grid: tuple[int, int] | None, length: int) -> dict[str, Any]:
        """The pattern's options for `length` tokens, and the normalizer."""
        raise NotImplementedError

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        groups, width = self.kv_heads or self.heads, self.head_dim(dim)
        return ops.init_kv_cache((batch_size,), length, groups, width, dtype=self.dtype)


class SparseStrided(_Gathered):
    """The strided pattern: the tokens next to a token, and those at whole strides from it.

    On an image the stride is a row: a token reads the pixels around it along the rows, and its
    column. Prefix tokens stand outside the pattern: they read every token and every token reads
    them (causal, later ones read them).

    Attributes:
      stride: l; None is the width of the grid, or 128 where there is none.
      combine: "merged", "heads", "local" or "summary", as in `ops.sparse_attention`; the last two
        are the halves that alternate over layers.
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(q_t . k_s / sqrt K) v_s,  |t - s| < l or l divides t - s"
    )
    cost: ClassVar[str] = "T sqrt(T)"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("sparse-transformer",)
    op = staticmethod(ops.sparse_attention)
    op_matrix = staticmethod(ops.sparse_attention_matrix)
    op_step = staticmethod(ops.sparse_attention_step)

    stride: int | None = None
    combine: str = "merged"

    @nn.nowrap
    def keywords(self, grid, length):
        return {
            "pattern": "strided",
            "stride": self.stride or (STRIDE if grid is None else grid[1]),
            "combine": self.combine,
            "prefix_tokens": self.prefix_tokens,
            "normalizer": self.normalizer,
        }


class SparseFixed(SparseStrided):
    """The fixed pattern: a token's own block, and the last tokens of every block.

    On an image a block is a row. Prefix tokens stand outside the pattern, as in `SparseStrided`.

    Attributes:
      stride: l, tokens of a block; None is the width of the grid, or 128 where there is none.
      summary: c, the last tokens of a block, which all read; at most l / (2 subblocks).
      subblocks: distinct sets of c tokens, dealt to the heads in turn.
      combine: as in `ops.sparse_attention`.
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(q_t . k_s / sqrt K) v_s,  [t/l] = [s/l] or s mod l >= l - c"
    )

    summary: int = 8
    subblocks: int = 1

    @nn.nowrap
    def keywords(self, grid, length):
        keywords = super().keywords(grid, length)
        # the rows of a late stage of a pyramid are short
        subblocks = min(self.subblocks, keywords["stride"])
        summary = max(min(self.summary, keywords["stride"] // (2 * subblocks)), 1)
        return keywords | {"pattern": "fixed", "summary": summary, "subblocks": subblocks}


class PerHeadWindow(_Gathered):
    """Every head its own window along the sequence, and sinks that all heads read.

    Prefix tokens stand outside windows and sinks: they read every token and every token reads them
    (causal, later ones read them).

    Attributes:
      windows: tokens, or (alpha, beta) for alpha + beta N with N the tokens (of a cache, its size);
        dealt to the heads in turn.
      sinks: first tokens behind the prefix that every token reads; 64 in the released code.
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(q_t . k_s / sqrt K) v_s,  |t - s| < a_h + b_h N or s < sinks"
    )
    cost: ClassVar[str] = "T w"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("moa-sparse-attention",)
    op = staticmethod(ops.per_head_window_attention)
    op_matrix = staticmethod(ops.per_head_window_attention_matrix)
    op_step = staticmethod(ops.per_head_window_attention_step)

    windows: tuple[int | tuple[float, float], ...] = (64, 128, 256, 512)
    sinks: int = 64

    @nn.nowrap
    def keywords(self, grid, length):
        return {
            "windows": tuple(self.windows[head % len(self.windows)] for head in range(self.heads)),
            "sinks": self.sinks,
            "length": length,
            "prefix_tokens": self.prefix_tokens,
            "normalizer": self.normalizer,
        }

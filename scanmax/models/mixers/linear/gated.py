"""Mixers of MAViT and RAVLT: rotary positions, a local term on the values, a gate on the output."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Conv, Dense, at_least_float32
from scanmax.models.mixers.base import Mixer
from scanmax.models.mixers.linear.attention import attend


class GatedAttention(Mixer):
    """Softmax attention as RAVLT and MAViT have it in their last stages.

        y = out((attention(turn(q), turn(k), v) + lepe(v)) * o),    q, k, v, o = projections of x

    Prefix tokens are not turned and have no local term; they take part in the attention. In the
    causal form positions run along the sequence and there is no local term.

    Attributes:
      rotary_base: base of the rotary positions, in two dimensions on a grid; None leaves them out.
      lepe_size: side of the depthwise convolution of the values; 0 leaves it out, None is 5, and
        0 in the causal form.
      gate: multiply by o before the last projection.
    """

    formula: ClassVar[str] = "y = (softmax(q k^T / sqrt(K)) v + conv(v)) * o"
    cost: ClassVar[str] = "T^2"
    papers: ClassVar[tuple[str, ...]] = ("rala-ravlt", "mala-magnitude-aware-linear-attention")

    rotary_base: float | None = 10000.0
    lepe_size: int | None = None
    gate: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim, width = x.shape[-1], self.head_dim(x.shape[-1])
        size = (0 if self.is_causal else 5) if self.lepe_size is None else self.lepe_size
        if size and self.is_causal:
            raise ValueError(f"lepe_size={size}: the local term has no causal form.")
        grid = self.grid_or_line(x, grid)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": self.use_bias, **dtypes}
        # fused as released: query, key, value and gate
        shape = (3 + self.gate, self.heads, width)
        projected = Dense(shape, ("embed", None, "heads", "kv"), name="qkvo", **options)(x)
        value = projected[:, :, 2]

        def turn(features):
            if self.rotary_base is None:
                return None
            if self.is_causal:
                positions = self.positions(x, state)
                return ops.rotary(features, positions, base=self.rotary_base, layout="interleaved")
            return ops.rotary_2d(
                features,
                grid=grid,
                base=self.rotary_base,
                layout="interleaved",
                endpoint=True,
                prefix_tokens=self.prefix_tokens,
            )

        y, state = self.mix(projected[:, :, 0], projected[:, :, 1], value, turn, state)
        if size:
            prefix, tokens = jnp.split(value, [self.prefix_tokens], axis=1)
            maps = tokens.reshape(x.shape[0], *grid, dim)
            maps = Conv(dim, size, groups=dim, name="lepe", **dtypes)(maps)
            tokens = maps.reshape(tokens.shape)
            y = y + jnp.concatenate([jnp.zeros_like(prefix), tokens], axis=1)
        if self.gate:
            y = y * projected[:, :, 3]
        y = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def positions(self, x, state):
        """Places of the tokens in the sequence; None where they are the first."""
        return None

    @nn.nowrap
    def mix(self, query, key, value, turn, state):
        """(y, state) of projections [B, T, H, K]; turn(features) by position, None for none."""
        if self.rotary_base is not None:
            query, key = turn(query), turn(key)
        options = {"is_causal": self.is_causal}
        self.sow_attention(query.shape[1], lambda: ops.attention_matrix(query, key, **options))
        return ops.context_attention(query, key, value, **options), state


class Mala(GatedAttention):
    """Magnitude-aware linear attention with rotary positions, a local term and a gate.

    The released form: positions turn the features in the products, and not in the sums that replace
    the normaliser.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention` that keeps the width.
    """

    formula: ClassVar[str] = "y = (mala(q, k, v) + conv(v)) * o, w_ts = (1 + 1/z_t) s_ts - z_t/T"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("mala-magnitude-aware-linear-attention",)

    feature_map: str = "elu"

    @nn.nowrap
    def mix(self, query, key, value, turn, state):
        phi = ops.FEATURE_MAPS[self.feature_map]
        query, key = phi(query), phi(key)
        turned = {"turned_query": turn(query), "turned_key": turn(key)}
        self.sow_attention(
            query.shape[1],
            lambda: ops.mala_attention_matrix(
                query, key, feature_map=None, is_causal=self.is_causal, **turned
            ),
        )
        return attend(
            ops.mala_attention,
            ops.mala_attention_step,
            {"query": query, "key": key, "value": value, **turned},
            is_causal=self.is_causal,
            state=state,
            feature_map=None,
        )

    @nn.nowrap
    def positions(self, x, state):
        if state is None:
            return None
        tokens = jnp.arange(x.shape[1])
        # the corner of the state counts the tokens before
        return state[:, 0, -1, -1, None] + tokens[None].astype(state.dtype)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        width = self.head_dim(dim) + 1
        return jnp.zeros((batch_size, self.heads, width, width), at_least_float32(self.dtype))


class Rala(GatedAttention):
    """Rank-augmented linear attention with rotary positions, a local term and its gate.

    The gate is the output modulation of the paper. There is no causal form: the tokens are weighed
    by the mean of all queries.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention` that keeps the width.
    """

    formula: ClassVar[str] = "y_t = (sum_s phi(q_t) . alpha_s phi(k_s) v_s / z_t + conv(v)_t) * o_t"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("rala-ravlt",)

    feature_map: str = "elu"

    @nn.nowrap
    def mix(self, query, key, value, turn, state):
        if self.is_causal:
            raise ValueError("Rala has no causal form: its weights of tokens need all queries.")
        phi = ops.FEATURE_MAPS[self.feature_map]
        query, key = phi(query), phi(key)
        options = {"turned_query": turn(query), "turned_key": turn(key), "feature_map": None}
        self.sow_attention(query.shape[1], lambda: ops.rala_attention_matrix(query, key, **options))
        return ops.rala_attention(query, key, value, **options), state

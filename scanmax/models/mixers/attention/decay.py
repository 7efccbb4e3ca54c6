"""Attention that decays with distance, as modules: ALiBi, and the Manhattan attention of RMT."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Conv, Dense, fan_in_uniform
from scanmax.models.mixers.attention.dot_product import Attention
from scanmax.models.mixers.base import Mixer


class Alibi(Attention):
    """Attention with linear biases: each head's logits fall with the distance at its own slope.

    On a sequence the distance is |t - s|; on a grid, |y_t - y_s| + |x_t - x_s|. Prefix tokens are
    at no distance from any token.

    Reference: sigmoid-attention
    """

    formula: ClassVar[str] = "y_t = sum_s softmax_s(q_t . k_s / sqrt K - m_h |p_t - p_s|_1) v_s"
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("sigmoid-attention",)
    packs: ClassVar[bool] = False

    @nn.nowrap
    def slopes(self):
        """[H]."""
        return ops.alibi_slopes(self.heads, dtype=self.dtype)

    @nn.nowrap
    def mix(self, query, key, value, grid, loudness):
        for name in ("local_window_size", "logits_soft_cap", "implementation"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} is not supported by alibi.")
        tokens = query.shape[1]
        prefix = 0 if self.is_causal else self.prefix_tokens
        shape = (tokens,) if self.is_causal else grid or (tokens - prefix,)
        places = np.stack([axis.reshape(-1) for axis in np.indices(shape)], -1)
        places = jnp.asarray(np.pad(places, ((prefix, 0), (0, 0))), jnp.int32)
        keywords = {
            "is_causal": self.is_causal,
            "prefix_tokens": prefix,
            "normalizer": self.normalizer,
        }
        decay = -self.slopes()

        def matrix():
            return ops.distance_attention_matrix(query, key, decay, places, places, **keywords)

        self.sow_attention(tokens, matrix)
        return ops.distance_attention(query, key, value, decay, places, places, **keywords)

    @nn.nowrap
    def cache_bias(self, state, length):
        tokens = state.position + jnp.arange(length)
        places = jnp.arange(state.key.shape[1])
        distance = jnp.abs(tokens[:, None] - places[None]).astype(self.dtype)
        bias = -self.slopes()[:, None, None] * distance[None]
        return bias[:, 0] if length == 1 else bias


class Manhattan(Mixer):
    """The attention of RMT: Manhattan decay, rotary positions, and a convolution of the values.

    In the order of the released code: keys are scaled by K ** -0.5, queries and keys turned by the
    pixel's index, log decay added to the logits, and LePE (a depthwise convolution of the values)
    added before the output projection. Prefix tokens decay nowhere, are not turned, and lie outside
    the convolution.

    Attributes:
      decomposed: attend along rows, then along columns.
      placement: of the decay: "logits" as released, "weights" (after the softmax) as printed.
      initial, span: of the heads' decays, see `ops.manhattan_log_decay`.
      rotary: turn queries and keys, with the frequencies of RetNet; needs heads of even width.
      lepe_size: side of the convolution of the values; 0 leaves it out.

    Reference: rmt-masa
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(q_t . k_s / sqrt K + log gamma_h |p_t - p_s|_1) v_s + dwconv(v)_t"
    )
    cost: ClassVar[str] = "T^2"
    papers: ClassVar[tuple[str, ...]] = ("rmt-masa",)

    decomposed: bool = False
    placement: str = "logits"
    initial: float = 2.0
    span: float = 4.0
    rotary: bool = True
    lepe_size: int = 5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("rmt has no causal form: its decay runs in every direction.")
        grid, P = self.grid_or_line(x, grid), self.prefix_tokens
        batch, tokens, dim = x.shape
        width = self.head_dim(dim)
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        # Xavier's normal start, smaller by 2^-2.5
        inward = nn.initializers.normal(2**-2.5 * dim**-0.5)
        query, key, value = Dense(
            (3, self.heads, width),
            ("embed", None, "heads", "kv"),
            kernel_init=inward,
            apart=True,
            name="qkv",
            **options,
        )(x)
        if self.rotary:
            turn = {"layout": "interleaved", "endpoint": True}
            query, key = (
                jnp.concatenate([part[:, :P], ops.rotary(part[:, P:], **turn)], 1)
                for part in (query, key)
            )
        decay = ops.manhattan_log_decay(
            self.heads, initial=self.initial, span=self.span, dtype=self.dtype
        )
        keywords = {
            "grid": grid,
            "decomposed": self.decomposed,
            "placement": self.placement,
            "prefix_tokens": P,
        }
        self.sow_attention(
            tokens, lambda: ops.manhattan_attention_matrix(query, key, decay, **keywords)
        )
        y = ops.manhattan_attention(query, key, value, decay, **keywords)
        y = y.reshape(batch, tokens, dim)
        if self.lepe_size:
            conv = Conv(
                dim,
                self.lepe_size,
                groups=dim,
                kernel_init=fan_in_uniform(fan_in=self.lepe_size**2),
                name="lepe",
                **options,
            )
            maps = conv(value.reshape(batch, tokens, dim)[:, P:].reshape(batch, *grid, dim))
            y = y + jnp.pad(jax.lax.collapse(maps, 1, 3), ((0, 0), (P, 0), (0, 0)))
        outward = nn.initializers.normal(dim**-0.5)
        return Dense(dim, ("heads", "embed"), kernel_init=outward, name="out", **options)(y)


class ManhattanDecomposed(Manhattan):
    """`Manhattan` along rows, then along columns: RMT's first three stages."""

    formula: ClassVar[str] = (
        "y = A_Y (A_X v) + dwconv(v), A = softmax(q k^T / sqrt K + log gamma_h |t - s|) per line"
    )
    cost: ClassVar[str] = "T sqrt(T)"

    decomposed: bool = True

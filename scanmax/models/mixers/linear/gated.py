"""Softmax attention with rotary positions, a local term on the values, a gate on the output."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Conv, Dense
from scanmax.models.mixers.base import Mixer


class GatedAttention(Mixer):
    """Softmax attention as RAVLT and MAViT have it in their last stages.

        y = out((attention(turn(q), turn(k), v) + lepe(v)) * o),    q, k, v, o = projections of x

    Prefix tokens are not turned and have no local term; they take part in the attention. In the
    causal form positions run along the sequence and there is no local term.

    Attributes:
      rotary_base: base of the rotary positions, in two dimensions on a grid; None leaves them out.
      lepe_size: side of the depthwise convolution of the values; 0 leaves it out, None is 5, and
        0 in the causal form.
      lepe_deviation: of its first taps.
      gate: multiply by o before the last projection.
    """

    formula: ClassVar[str] = "y = (softmax(q k^T / sqrt(K)) v + conv(v)) * o"
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("rala-ravlt", "mala-magnitude-aware-linear-attention")

    rotary_base: float | None = 10000.0
    lepe_size: int | None = None
    lepe_deviation: float = 0.02
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
            init = {"kernel_init": nn.initializers.normal(self.lepe_deviation)}
            maps = Conv(dim, size, groups=dim, name="lepe", **init, **dtypes)(maps)
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

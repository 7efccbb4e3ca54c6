"""Lightweight and dynamic convolution in the place of self-attention."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import partitioned
from scanmax.models.mixers.base import Mixer

_TAPS = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1, out_axis=0)


class LightConv(Mixer):
    """LightConv: y = W_o conv(glu(W_i x)), the taps of a head softmax weights that all share.

    Reads the tokens in a row, prefix first and then the grid row by row: the last `kernel_size`
    where causal, else as many around its own.

    Attributes:
      kernel_size: taps.
    """

    formula: ClassVar[str] = "y_t = W sum_w softmax(k_h)_w u_(t-b+w),  u = glu(V x)"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("lightconv-dynamicconv",)
    packs: ClassVar[bool] = True

    kernel_size: int = 7

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
        self.head_dim(dim)
        packed = self.packed(segment_ids, state)
        if not self.is_causal and state is not None:
            raise ValueError(f"{type(self).__name__}: state= belongs to the causal form.")
        u = nn.glu(self.dense(2 * dim, ("embed", "mlp"), "in_proj")(x))
        logits = self.logits(u)
        y = self.convolve(u, logits, initial_state=state, return_state=state is not None, **packed)
        y, new = y if state is not None else (y, None)
        lead = (*x.shape[:-1], self.heads, self.kernel_size)
        self.sow_attention(
            x.shape[1],
            lambda: ops.dynamic_conv_matrix(
                jnp.broadcast_to(logits, lead), is_causal=self.is_causal, **packed
            ),
        )
        y = self.dense(dim, ("mlp", "embed"), "out_proj")(y)
        return y if state is None else (y, new)

    @nn.nowrap
    def logits(self, u: Float[Array, "B T D"]) -> Array:
        """Of the taps, [H, W]."""
        shape = (self.heads, self.kernel_size)
        init = partitioned(_TAPS, ("heads", None), inputs=(-1,))
        return self.param("taps", init, shape, self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def convolve(self, u: Float[Array, "B T D"], logits: Array, **options: Any):
        return ops.lightweight_conv(u, logits, is_causal=self.is_causal, **options)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        return jnp.zeros((batch_size, self.kernel_size - 1, dim), self.dtype)


class DynamicConv(LightConv):
    """DynamicConv: LightConv whose taps are a linear map of the token that they are for."""

    formula: ClassVar[str] = "y_t = W sum_w softmax(K_h u_t)_w u_(t-b+w),  u = glu(V x)"

    @nn.nowrap
    def logits(self, u: Float[Array, "B T D"]) -> Array:
        """Of the taps of every token, [B, T, H, W]."""
        shape = (self.heads, self.kernel_size)
        return self.dense(shape, ("mlp", "heads", None), "taps", use_bias=False)(u)

    @nn.nowrap
    def convolve(self, u: Float[Array, "B T D"], logits: Array, **options: Any):
        return ops.dynamic_conv(u, logits, is_causal=self.is_causal, **options)

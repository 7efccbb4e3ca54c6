"""Injective linear attention as a module, with the taps that an image chooses for its values."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Initializer, fan_in_uniform, gelu, partitioned
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.linear.fused import Fused


class Inline(Fused):
    """Injective linear attention, and a 3 x 3 convolution of its values that the image chooses.

    The taps of the convolution follow from the mean of all tokens; it is depthwise, and leaves
    prefix tokens out, which the attention includes.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention`; None is the identity.
      local: add the convolution of the values; None is True, and False in the causal form, which
        has none.
    """

    formula: ClassVar[str] = "y_t = sum_s (w_ts - mean_s w_ts + 1/T) v_s, w_ts = q_t . k_s / c"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("inline-attention",)

    feature_map: str | None = None
    local: bool | None = None

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        options = {"feature_map": self.feature_map}
        self.sow_attention(
            x.shape[1],
            lambda: ops.inline_attention_matrix(query, key, is_causal=self.is_causal, **options),
        )
        y, state = attend(
            ops.inline_attention,
            ops.inline_attention_step,
            {"query": query, "key": key, "value": value},
            is_causal=self.is_causal,
            state=state,
            **options,
        )
        if not self.is_causal and (self.local or self.local is None):
            y = y + self.convolved(x, self.grid_or_line(x, grid), value)
        elif self.local:
            raise ValueError("Inline: local=True, but its convolution has no causal form.")
        return y, state

    @nn.nowrap
    def convolved(self, x, grid, value):
        """The values under taps made from the mean token, zeros for the prefix."""
        width = value.shape[-1]
        mean = x.mean(1).reshape(x.shape[0], self.heads, width)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = PerHead(width, name="residual1", **dtypes)(mean)
        taps = PerHead(9 * width, name="residual2", **dtypes)(gelu(hidden))
        kernels = jnp.moveaxis(taps.reshape(x.shape[0], self.heads * width, 3, 3), 1, -1)[
            ..., None, :
        ]
        prefix, tokens = jnp.split(value, [self.prefix_tokens], axis=1)
        maps = tokens.reshape(x.shape[0], *grid, self.heads * width)
        maps = jax.vmap(ops.depthwise_conv2d)(maps, kernels)
        tokens = maps.reshape(tokens.shape)
        return jnp.concatenate([jnp.zeros_like(prefix), tokens], axis=1)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        return self.init_sums(batch_size, dim)


class PerHead(nn.Module):
    """A linear map of its own for each head: [B, H, C] -> [B, H, features]."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H C"]) -> Float[Array, "B H F"]:
        heads, width = x.shape[1:]
        init: Initializer = fan_in_uniform(fan_in=width)
        kernel_init = partitioned(init, ("heads", "kv", None), (-2,), (-1,))
        bias_init = partitioned(init, ("heads", None))
        kernel = self.param("kernel", kernel_init, (heads, width, self.features), self.param_dtype)
        bias = self.param("bias", bias_init, (heads, self.features), self.param_dtype)
        y = jnp.einsum("bhc,hcf->bhf", x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)[None]

"""Mixers in linear order over one projection: scaling, injective, Performer's, XCiT's."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import (
    Dense,
    Initializer,
    at_least_float32,
    fan_in_uniform,
    gelu,
    ones_init,
    partitioned,
)
from scanmax.models.mixers.base import Mixer
from scanmax.models.mixers.linear.attention import attend


class Fused(Mixer):
    """One product for queries, keys and values, one for the output; a subclass mixes between."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
    ):
        dim = x.shape[-1]
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        shape = (3, self.heads, self.head_dim(dim))
        qkv = Dense(shape, ("embed", None, "heads", "kv"), name="qkv", **options)(x)
        y, state = self.mix(x, grid, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], state)
        y = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        """(y, state) of x, its grid and its projections [B, T, H, K]."""
        raise NotImplementedError

    @nn.nowrap
    def init_sums(self, batch_size: int, dim: int) -> Array:
        """The empty state of scaling, injective and magnitude-aware attention."""
        width = self.head_dim(dim) + 1
        return jnp.zeros((batch_size, self.heads, width, width), at_least_float32(self.dtype))


class Scaling(Fused):
    """Products of queries and keys over the number of tokens, without any non-linearity.

    Prefix tokens take part like any other.
    """

    formula: ClassVar[str] = "y_t = q_t^T (sum_s k_s v_s^T) / (sqrt(K) T)"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("mpcvit",)

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        self.sow_attention(
            x.shape[1],
            lambda: ops.scaling_attention_matrix(query, key, is_causal=self.is_causal),
        )
        return attend(
            ops.scaling_attention,
            ops.scaling_attention_step,
            {"query": query, "key": key, "value": value},
            is_causal=self.is_causal,
            state=state,
        )

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        return self.init_sums(batch_size, dim)


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
        shape, width = value.shape, value.shape[-1]
        mean = x.mean(1).reshape(x.shape[0], self.heads, width)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = PerHead(width, name="residual1", **dtypes)(mean)
        taps = PerHead(9 * width, name="residual2", **dtypes)(gelu(hidden))
        kernels = jnp.moveaxis(taps.reshape(x.shape[0], -1, 3, 3), 1, -1)[..., None, :]
        prefix, tokens = jnp.split(value, [self.prefix_tokens], axis=1)
        maps = tokens.reshape(x.shape[0], *grid, -1)
        maps = jax.vmap(ops.depthwise_conv2d)(maps, kernels)
        tokens = maps.reshape(shape[0], -1, *shape[2:])
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
        kernel_init = partitioned(init, ("heads", "kv", None))
        bias_init = partitioned(init, ("heads", None))
        kernel = self.param("kernel", kernel_init, (heads, width, self.features), self.param_dtype)
        bias = self.param("bias", bias_init, (heads, self.features), self.param_dtype)
        y = jnp.einsum("bhc,hcf->bhf", x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)[None]


class Performer(Fused):
    """Softmax attention estimated by positive orthogonal random features.

    The directions are drawn once, from `seed`: they are no parameters. Prefix tokens take part like
    any other.

    Attributes:
      num_features: random features of a head; None is K log K, as the Performer has it.
      epsilon: added to every feature, so that no row of weights is empty.
      seed: of the directions.
    """

    formula: ClassVar[str] = "y_t = sum_s w_ts v_s / sum_s w_ts, E w_ts = exp(q_t . k_s / sqrt(K))"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("t2t-vit",)

    num_features: int | None = None
    epsilon: float = 1e-6
    seed: int = 0

    @nn.nowrap
    def feature_count(self, width: int) -> int:
        return self.num_features or max(1, int(width * math.log(width)))

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        width = query.shape[-1]
        # A constant of the program, not drawn again at every step.
        with jax.ensure_compile_time_eval():
            projection = ops.orthogonal_random_features(
                jax.random.key(self.seed), self.feature_count(width), width
            )
        query = ops.positive_random_features(
            query, projection, stabilize="token", epsilon=self.epsilon
        )
        # The largest of all keys is not known before the last one.
        key = ops.positive_random_features(
            key,
            projection,
            stabilize=None if self.is_causal else "sequence",
            epsilon=self.epsilon,
        )
        self.sow_attention(
            x.shape[1],
            lambda: ops.linear_attention_matrix(
                query, key, normalize=True, is_causal=self.is_causal
            ),
        )
        return attend(
            ops.linear_attention,
            ops.linear_attention_step,
            {"query": query, "key": key, "value": value},
            is_causal=self.is_causal,
            state=state,
            normalize=True,
        )

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Array:
        width = self.head_dim(dim)
        shape = (batch_size, self.heads, self.feature_count(width), width + 1)
        return jnp.zeros(shape, at_least_float32(self.dtype))


class CrossCovariance(Fused):
    """Attention among the channels of a head, with a learned temperature (XCA).

    It is no matrix over tokens, which meet in the covariance of their channels alone; prefix tokens
    take part in it.
    """

    formula: ClassVar[str] = "y_t = A v_t, A = softmax(temperature * q^T k), q and k of unit length"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("xcit",)

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        if self.is_causal:
            raise ValueError("CrossCovariance has no causal form: the covariance needs all tokens.")
        init = partitioned(ones_init, ("heads",))
        temperature = self.param("temperature", init, (self.heads,), self.param_dtype)
        return ops.cross_covariance_attention(query, key, value, temperature=temperature), state

"""Third-order attention as a module: every token reads pairs of tokens."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense
from scanmax.models.mixers.base import Mixer
from scanmax.models.statistics import at_least_float32


class Tensor(Mixer):
    """out(sum_jk softmax_jk(sum_d q_d k1_jd k2_kd / K) v1_j * v2_k): five projections per head.

    Prefix tokens take part like any other: the mixer knows no order. What a token reads are pairs,
    so there is no matrix over tokens to sow; `ops.tensor_attention_weights` shows them.

    Attributes:
      degree: None weighs all pairs exactly, T^3 in time, T in memory. A number takes a polynomial
        of that degree in place of exp, T in time, (K + degree) over degree features per head.
      bound: with degree: a size of logits that the polynomial is fitted to; None is Taylor's at 0.
    """

    formula: ClassVar[str] = "sum_jk softmax_jk(sum_d q_d k1_jd k2_kd / K) v1_j * v2_k"
    cost: ClassVar[str] = "T^3, T with degree"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("tensor-attention",)
    degree: int | None = None
    bound: float | None = None

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
        shape = (5, self.heads, self.head_dim(dim))
        made = Dense(shape, ("embed", None, "heads", "kv"), name="qkkvv", **options)(x)
        arrays = [made[:, :, which] for which in range(5)]
        if state is None:
            y = self.attend(*arrays, is_causal=self.is_causal)
        else:
            y, state = self.go_on(state, *arrays)
        y = Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)
        return y if state is None else (y, state)

    @nn.nowrap
    def attend(self, *arrays, **options):
        """The op of this mixer's degree."""
        if self.degree is None:
            return ops.tensor_attention(*arrays, **options)
        fit = {"degree": self.degree, "bound": self.bound}
        return ops.tensor_attention_poly(*arrays, **fit, **options)

    @nn.nowrap
    def go_on(self, state, query, first_key, second_key, first_value, second_value):
        """The tokens after `state`, and the state after them."""
        arrays = (query, first_key, second_key, first_value, second_value)
        if self.degree is not None:
            return self.attend(*arrays, is_causal=True, initial_state=state, return_state=True)
        tokens = (state[0].position + jnp.arange(query.shape[1]))[:, None]
        mask = jnp.arange(state[0].key.shape[1])[None] <= tokens
        state = (
            ops.extend_kv_cache(state[0], first_key, first_value),
            ops.extend_kv_cache(state[1], second_key, second_value),
        )
        keys = [cache.key.astype(self.dtype) for cache in state]
        values = [cache.value.astype(self.dtype) for cache in state]
        return self.attend(query, *keys, *values, mask), state

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        width = self.head_dim(dim)
        if self.degree is None:
            cache = ops.init_kv_cache((batch_size,), length, self.heads, width, dtype=self.dtype)
            return cache, cache
        features = math.comb(width + self.degree, self.degree)
        shape = (batch_size, self.heads, 2, features, width + 1)
        return jnp.zeros(shape, at_least_float32(self.dtype))

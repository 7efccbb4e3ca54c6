"""Scaling attention as a module: products of queries and keys over the number of tokens."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array

from scanmax import ops
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.linear.fused import Fused


class Scaling(Fused):
    """Products of queries and keys over the number of tokens, without any non-linearity.

    Prefix tokens take part like any other.
    """

    formula: ClassVar[str] = "y_t = q_t^T (sum_s k_s v_s^T) / (sqrt(K) T)"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
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

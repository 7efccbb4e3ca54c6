"""The Performer's attention as a module: positive random features of the softmax kernel."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from scanmax import ops
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.linear.fused import Fused
from scanmax.models.statistics import at_least_float32


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
    causal_form: ClassVar[bool] = True
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

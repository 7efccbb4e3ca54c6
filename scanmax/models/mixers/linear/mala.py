"""The mixer of MAViT: magnitude-aware linear attention behind rotary positions and a gate."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from scanmax import ops
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.linear.gated import GatedAttention
from scanmax.models.statistics import at_least_float32


class Mala(GatedAttention):
    """Magnitude-aware linear attention with rotary positions, a local term and a gate.

    The released form: positions turn the features in the products, and not in the sums that replace
    the normaliser.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention` that keeps the width.
    """

    formula: ClassVar[str] = "y = (mala(q, k, v) + conv(v)) * o, w_ts = (1 + 1/z_t) s_ts - z_t/T"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
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

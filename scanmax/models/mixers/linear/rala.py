"""The mixer of RAVLT: rank-augmented linear attention behind rotary positions and a gate."""

from typing import ClassVar

import flax.linen as nn

from scanmax import ops
from scanmax.models.mixers.linear.gated import GatedAttention


class Rala(GatedAttention):
    """Rank-augmented linear attention with rotary positions, a local term and its gate.

    The gate is the output modulation of the paper. There is no causal form: the tokens are weighed
    by the mean of all queries.

    Attributes:
      feature_map: phi, a name of `ops.linear_attention` that keeps the width.
    """

    formula: ClassVar[str] = "y_t = (sum_s phi(q_t) . alpha_s phi(k_s) v_s / z_t + conv(v)_t) * o_t"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = False
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

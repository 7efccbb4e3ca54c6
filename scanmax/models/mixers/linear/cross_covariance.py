"""Cross-covariance attention as a module: the channels of a head attend to each other."""

from typing import ClassVar

import flax.linen as nn

from scanmax import ops
from scanmax.models.layers import ones_init, partitioned
from scanmax.models.mixers.linear.fused import Fused


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

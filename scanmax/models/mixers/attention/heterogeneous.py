"""Heterogeneous attention as a module: each head between two kinds without an exponential."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, ones_init, partitioned
from scanmax.models.mixers.base import Mixer

GRANULARITIES = ("head", "layer")


class Heterogeneous(Mixer):
    """MPCViT's attention: a learned share alpha of ReLU-softmax attention, the rest scaling.

    Prefix tokens take part like any other: neither kind knows an order. What the paper does around
    it, a penalty on alpha by latency and its rounding to 0 or 1, is training's.

    Attributes:
      granularity: a share for each "head", or one for the "layer".
      epsilon: added to the row sums of the ReLU-softmax.

    Reference: mpcvit
    """

    formula: ClassVar[str] = (
        "y_t = sum_s (alpha relu(l_ts) / (sum relu(l_t) + eps) + (1 - alpha) l_ts / T) v_s"
    )
    cost: ClassVar[str] = "T^2"
    papers: ClassVar[tuple[str, ...]] = ("mpcvit",)

    granularity: str = "head"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("heterogeneous has no causal form: its rows are counted whole.")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity={self.granularity!r} is not one of {GRANULARITIES}.")
        dim = x.shape[-1]
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        shape = (3, self.heads, self.head_dim(dim))
        dense = Dense(shape, ("embed", None, "heads", "kv"), apart=True, name="qkv", **options)
        query, key, value = dense(x)
        axes, shape = (("heads",), (self.heads,)) if self.granularity == "head" else ((), ())
        alpha = self.param("alpha", partitioned(ones_init, axes), shape, self.param_dtype)
        alpha = alpha.astype(self.dtype)
        self.sow_attention(
            x.shape[1],
            lambda: ops.heterogeneous_attention_matrix(query, key, alpha, epsilon=self.epsilon),
        )
        y = ops.heterogeneous_attention(query, key, value, alpha, epsilon=self.epsilon)
        return Dense(dim, ("heads", "kv", "embed"), contract=2, name="out", **options)(y)

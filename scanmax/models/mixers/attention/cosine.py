"""Length-scaled cosine attention as a module, with or without a position bias."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from scanmax.models.layers import normal_init, partitioned
from scanmax.models.mixers.attention.dot_product import Attention
from scanmax.models.mixers.attention.moh import weighed_heads
from scanmax.models.mixers.attention.position_bias import LogCpb, RelativePositionBias
from scanmax.models.statistics import at_least_float32
from scanmax.ops.attention.cosine import scaled_queries, unit_vectors

POSITION_BIASES = (None, "log_cpb", "relative")


class CosineAttention(Attention):
    """Attention on cosines, scaled by a learned temperature and the logarithm of the keys' number.

    The attention of TransNeXt's last stage. Prefix tokens take part like any other, without bias.

    Attributes:
      position_bias: "log_cpb" (an MLP of log-spaced offsets), "relative" (a table, resampled where
        the grid is larger), or None.
      pretrain_grid: the grid that the bias is made for; None is each grid as it comes for
        "log_cpb", and 7 x 7 for "relative".
      bias_hidden: width of the bias's MLP.
      head_gates: fields of `MixtureOfHeads` that say how tokens pick and weigh their heads, as in
        MoH-ViT; None leaves them as they are. The matrix that is sown is without gates.

    Reference: transnext
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(softplus(tau) log n (q_t / |q_t| + e) . k_s / |k_s| + b_ts) v_s"
    )
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("transnext",)
    packs: ClassVar[bool] = False

    position_bias: str | None = None
    pretrain_grid: tuple[int, int] | None = None
    bias_hidden: int = 512
    head_gates: Mapping[str, Any] | None = None

    @nn.nowrap
    def condition(self, query, key, value, start):
        """Scaled queries and unit keys; a causal query counts itself and the tokens before."""
        counts = query.shape[1]
        if self.is_causal:
            counts = start + jnp.arange(1, counts + 1)
        # softplus of it is 1 / 0.24, as in the released code
        first = nn.initializers.constant(float(np.log(np.expm1(1 / 0.24))))
        temperature = self.param(
            "temperature", partitioned(first, ("heads",)), (self.heads,), self.param_dtype
        )
        embedding = self.param(
            "query_embedding",
            partitioned(normal_init, ("heads", "kv")),
            (self.heads, query.shape[-1]),
            self.param_dtype,
        )
        query = scaled_queries(query, temperature, embedding, counts).astype(self.dtype)
        key = unit_vectors(key.astype(at_least_float32(self.dtype))).astype(self.dtype)
        return query, key, value, None

    @nn.nowrap
    def weigh_heads(self, y, x, train: bool):
        return weighed_heads(self, y, x, train, self.head_gates)

    @nn.nowrap
    def keywords(self) -> dict[str, Any]:
        return super().keywords() | {"scale": 1.0}

    @nn.nowrap
    def bias(self, grid, tokens):
        if self.position_bias not in POSITION_BIASES:
            raise ValueError(
                f"position_bias={self.position_bias!r} is not one of {POSITION_BIASES}"
            )
        if self.position_bias is None:
            return None
        if self.is_causal:
            raise ValueError("a causal mixer has no grid for position_bias to lie on.")
        options: dict[str, Any] = {
            "prefix_tokens": self.prefix_tokens,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "name": "position_bias",
        }
        if self.position_bias == "log_cpb":
            made = LogCpb(self.heads, self.bias_hidden, self.pretrain_grid, **options)
        else:
            made = RelativePositionBias(self.heads, self.pretrain_grid or (7, 7), **options)
        return made(grid or (1, tokens - self.prefix_tokens))

"""cosFormer's attention as a module: rectified queries and keys, weighed by their distance."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.mixers.linear.attention import attend
from scanmax.models.mixers.linear.fused import Fused
from scanmax.models.statistics import at_least_float32


class Cosformer(Fused):
    """Linear attention of rectified queries and keys whose weights fall with the distance.

    Prefix tokens take part like any other, as the first of the sequence.

    Attributes:
      max_length: M, at which weights have fallen to 0; None is the number of tokens, as in the
        released code, with which parts of a sequence cannot be told from the whole.
    """

    formula: ClassVar[str] = "w_ts = relu(q_t) . relu(k_s) cos(pi (t - s) / (2 M))"
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("nas-efficient-transformer-mixed",)

    max_length: int | None = None

    @nn.nowrap
    def mix(self, x, grid, query, key, value, state):
        length = x.shape[1]
        if state is not None and self.max_length is None:
            raise UserError("max_length=None: a sequence in parts needs the length of the whole")
        if self.max_length is not None and length > self.max_length:
            raise UserError(f"max_length={self.max_length} is less than the {length} tokens")
        sums, positions = None, None
        if state is not None:
            sums, before = state
            positions = before[:, None] + jnp.arange(length, dtype=before.dtype)[None]
        query, key = (
            ops.cosine_features(x, positions, max_length=self.max_length) for x in (query, key)
        )
        self.sow_attention(
            length,
            lambda: ops.linear_attention_matrix(
                query, key, normalize=True, is_causal=self.is_causal
            ),
        )
        y, sums = attend(
            ops.linear_attention,
            ops.linear_attention_step,
            {"query": query, "key": key, "value": value},
            is_causal=self.is_causal,
            state=sums,
            normalize=True,
        )
        return y, None if state is None else (sums, before + length)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        """The sums over keys and values, and how many tokens they hold."""
        width = self.head_dim(dim)
        shape = (batch_size, self.heads, 2 * width, width + 1)
        sums = jnp.zeros(shape, at_least_float32(self.dtype))
        return sums, jnp.zeros((batch_size,), jnp.int32)

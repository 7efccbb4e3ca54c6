"""What mixers with a matrix state share: projections to heads, their norm, their gate."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import ones_init, partitioned
from scanmax.models.mixers.base import Mixer
from scanmax.models.statistics import at_least_float32


class Recurrent(Mixer):
    """Projections to heads, a norm per head, and the gate, which the mixers of a state share.

    Attributes:
      norm_epsilon: epsilon of the norm of each head.
    """

    packs: ClassVar[bool] = True

    norm_epsilon: float = 1e-5

    @nn.nowrap
    def widths(self, dim: int) -> tuple[int, int]:
        """Widths of a head's keys and values."""
        raise NotImplementedError

    @nn.nowrap
    def expanded(self, dim: int, factor: float) -> int:
        """The width of a head of `factor` times the model's width."""
        return self.head_dim(int(dim * factor))

    @nn.nowrap
    def heads_of(self, x: Float[Array, "B T D"], name: str, width: int, **options: Any) -> Array:
        """A projection [B, T, H, width]."""
        return self.dense((self.heads, width), ("embed", "heads", "kv"), name, **options)(x)

    @nn.nowrap
    def normed(self, y: Float[Array, "B T H V"], gate=None, scaled: bool = True):
        """Root-mean-square norm of each head with one scale for all, times silu(gate)."""
        scale = None
        if scaled:
            init = partitioned(ones_init, ("kv",))
            scale = self.param("norm_scale", init, y.shape[-1:], self.param_dtype)
            scale = scale.astype(self.dtype)
        if gate is None:
            return ops.rms_norm(y, scale, epsilon=self.norm_epsilon)
        return ops.gated_rms_norm(y, gate, scale, epsilon=self.norm_epsilon, norm_before_gate=True)

    @nn.nowrap
    def out(self, y: Float[Array, "B T H V"], dim: int) -> Float[Array, "B T D"]:
        return self.dense(dim, ("heads", "kv", "embed"), "out", contract=2)(y)

    @nn.nowrap
    def empty(self, batch_size: int, dim: int) -> Array:
        """The state of the recurrence before the first token."""
        return jnp.zeros((batch_size, self.heads, *self.widths(dim)), at_least_float32(self.dtype))

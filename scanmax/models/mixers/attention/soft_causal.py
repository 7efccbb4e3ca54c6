"""Attention under a soft causal mask as a module: the start of iLLaMA's training."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.mixers.attention.dot_product import Attention


class SoftCausal(Attention):
    """Attention in which later tokens count `strength` times: 1 is bidirectional, 0 causal.

    Prefix tokens stand behind the grid, as iLLaMA's class token does: they read every token
    whatever the strength, and rotary positions count so too.

    Attributes:
      strength: r, a number or a traced scalar: build the model inside the jitted step with the
        strength of that step (`train.schedules.soft_mask_strength`), and one trace serves all.
      placement: "weights" multiplies after the softmax, as released; "logits" before it.

    Reference: illama
    """

    formula: ClassVar[str] = (
        "y_t = sum_s softmax_s(q_t . k_s / sqrt K) M_ts v_s, M_ts = 1 for s <= t, else r"
    )
    cost: ClassVar[str] = "T^2"
    causal_form: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("illama",)
    packs: ClassVar[bool] = False

    strength: float | Array = 0.0
    placement: str = "weights"

    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ):
        """The tokens in their own order; inside, the prefix comes last."""
        if self.is_causal:
            raise ValueError(
                "soft_causal has no causal form: its rows are normalized over later tokens too. "
                "Take `attention`, causal."
            )
        y = super().__call__(jnp.roll(x, -self.prefix_tokens, 1), grid, train)
        return jnp.roll(y, self.prefix_tokens, 1)

    @nn.nowrap
    def mix(self, query, key, value, grid, loudness):
        for name in ("local_window_size", "logits_soft_cap", "implementation"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} is not supported by soft_causal.")
        strength = jnp.asarray(self.strength, self.dtype)
        keywords = {"placement": self.placement, "normalizer": self.normalizer}

        def matrix():
            weights = ops.soft_causal_attention_matrix(query, key, strength, **keywords)
            return jnp.roll(weights, (self.prefix_tokens,) * 2, (2, 3))

        self.sow_attention(query.shape[1], matrix)
        return ops.soft_causal_attention(query, key, value, strength, **keywords)

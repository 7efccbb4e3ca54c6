"""The focal loss: what is known well counts less."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice, ranged
from scanmax.train.losses.base import Labels, Loss, accumulated, distributions


@dataclasses.dataclass(frozen=True)
class Focal(Loss):
    """Cross-entropy times (1 - q)^gamma, q the probability given to what is true.

        over="softmax":  sum_c p_c (1 - softmax(x)_c)^gamma (-log softmax(x)_c)
        over="sigmoid":  sum_c bce_c (1 - q_c)^gamma,  q_c = p_c s(x_c) + (1 - p_c) (1 - s(x_c))

    Attributes:
      gamma: 0 is cross-entropy.
      over: "softmax", or "sigmoid" of each class, as published for detection.
      alpha: of "sigmoid": weight of what is there, 1 - alpha of what is not; 0 weighs nothing.

    Reference: Lin et al., Focal Loss for Dense Object Detection, 2017.
    """

    gamma: float = ranged(2.0, "[0, inf)")
    over: str = choice("softmax", ("softmax", "sigmoid"))
    alpha: float = ranged(0.0, "[0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha and self.over == "softmax":
            raise ValueError(f"alpha={self.alpha} is of over='sigmoid'; 'softmax' takes counts")

    def probabilities(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """By the softmax, or of each class by itself."""
        squash = jax.nn.softmax if self.over == "softmax" else jax.nn.sigmoid
        return squash(accumulated(logits))

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        targets = distributions(labels, logits, smoothing)
        if self.over == "softmax":
            logs = jax.nn.log_softmax(logits)
            return jnp.sum(targets * self.dim(-jnp.expm1(logs)) * -logs, axis=-1)
        chances = jax.nn.sigmoid(logits)
        missed = targets + chances - 2 * targets * chances
        values = self.dim(missed) * (jax.nn.softplus(logits) - targets * logits)
        if self.alpha:
            values = values * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return jnp.sum(values, axis=-1)

    def dim(self, missed: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """missed^gamma; the slope of a root is finite at 0."""
        if not self.gamma:
            return jnp.ones_like(missed)
        return jnp.maximum(missed, jnp.finfo(missed.dtype).tiny) ** self.gamma

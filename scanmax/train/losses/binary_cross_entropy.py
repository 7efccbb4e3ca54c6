"""Binary cross-entropy: every class is a question of its own."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, accumulated, distributions


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The mean over classes of -p_c log s(x_c) - (1 - p_c) log(1 - s(x_c)), s the sigmoid.

    Attributes:
      threshold: classes of which a mixed label holds more are targets of 1, the others of 0; at 0
        the shares themselves are targets.
      sums_classes: the sum over classes instead of their mean.

    Reference: Wightman et al., ResNet strikes back: An improved training procedure in timm, 2021.
    """

    threshold: float = ranged(0.0, "[0, 1)")
    sums_classes: bool = False

    @property
    def smooths(self) -> bool:
        """What a threshold makes of smoothed labels is what it makes of plain ones."""
        return not self.threshold

    def probabilities(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """Of each class by itself; they need not sum to 1."""
        return jax.nn.sigmoid(accumulated(logits))

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        targets = distributions(labels, logits, smoothing)
        if self.threshold:
            targets = (targets > self.threshold).astype(logits.dtype)
        values = jax.nn.softplus(logits) - targets * logits
        return jnp.sum(values, axis=-1) if self.sums_classes else jnp.mean(values, axis=-1)

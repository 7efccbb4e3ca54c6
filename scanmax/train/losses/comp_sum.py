"""Comp-sum losses: one family from sums of exponentials over cross-entropy to the mean error."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, distributions


@dataclasses.dataclass(frozen=True)
class CompSum(Loss):
    """Phi(u), u = sum_{c != y} exp(x_c - x_y), the mean over y where labels are distributions.

        Phi(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau),  log(1 + u) at tau = 1

    Attributes:
      tau: 0 is the sum of exponentials, 1 cross-entropy, between 1 and 2 generalised cross-entropy,
        2 the mean absolute error 1 - softmax(x)_y: the larger, the less wrong labels count.

    Reference: comp-sum-losses
    """

    tau: float = ranged(1.0, "[0, inf)")

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        # 1 + u is the inverse of the label's probability.
        values = -jax.nn.log_softmax(logits)
        if self.tau != 1:
            values = jnp.expm1((1 - self.tau) * values) / (1 - self.tau)
        return jnp.sum(distributions(labels, logits, smoothing) * values, axis=-1)

"""The loss of a support vector machine for each class against the rest."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, distributions


@dataclasses.dataclass(frozen=True)
class SquaredHinge(Loss):
    """penalty * sum_c max(0, 1 - y_c x_c)^2, y_c = 1 of the label's class and -1 of the others.

    Of labels that are distributions it is the mean over classes. The squared norm of the weights,
    which makes it a support vector machine, is the weight decay of the head's kernel.

    Attributes:
      penalty: C.

    Reference: cnn-svm
    """

    penalty: float = ranged(1.0, "(0, inf)")

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        targets = distributions(labels, logits, smoothing)
        inside, outside = (jnp.square(jax.nn.relu(1 - sign * logits)) for sign in (1, -1))
        return self.penalty * jnp.sum(targets * inside + (1 - targets) * outside, axis=-1)

"""The decoupled softmax: classes that are true together do not push each other down."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, distributions


@dataclasses.dataclass(frozen=True)
class DecoupledSoftmax(Loss):
    """-sum_p w_p log(e^{s_p} / (e^{s_p} + sum_{n not true} e^{s_n})), s = x / temperature.

    True are the classes of which a label holds anything, w their shares: of several labels an equal
    part each, of a mixed label those of the images. Of one label it is cross-entropy.

    Attributes:
      temperature: of the logits.

    Reference: dexml-decoupled-softmax
    """

    temperature: float = ranged(1.0, "(0, inf)")

    # Smoothing would make every class a true one.
    smooths: ClassVar[bool] = False

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        scores, shares = logits / self.temperature, positive_shares(labels, logits)
        is_true = shares > 0
        # Finite, so that a row of which all classes are true has a finite gradient.
        others = jnp.where(is_true, jnp.finfo(scores.dtype).min / 2, scores)
        others = jax.nn.logsumexp(others, axis=-1, keepdims=True)
        return jnp.sum(shares * jax.nn.softplus(others - scores), axis=-1)


def positive_shares(labels: Labels, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """What each class has of a label, together 1; 0 everywhere of a row without labels."""
    shares = distributions(labels, logits)
    total = jnp.sum(shares, axis=-1, keepdims=True)
    return shares / jnp.where(total > 0, total, 1)

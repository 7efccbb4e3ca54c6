"""AugMix's objective: the label of a clean view, and one answer for it and two changed ones."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses.base import accumulated
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.classification import Classification

# Shares below it count as it.
SMALLEST = 1e-7


class AugMix(Classification):
    """L(first view, label) + consistency * mean_v KL(p_v || mean of p) over the views v.

    The three views pass the model at once, as one batch. The policies of the views say which is
    clean: `data.augment.views=3` and `data.augment.view_policies` with the changes of the second
    and third.

    Attributes:
      consistency: weight of the divergence; the released code takes 12.

    Reference: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and
      Uncertainty, 2020.
    """

    consistency: float = ranged(12.0, "[0, inf)")

    views: ClassVar[int] = 3

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The label's loss [B] and the views'."""
        images = batch["image"]
        rows, views = images.shape[:2]
        outputs = self.model(images.reshape(rows * views, *images.shape[2:]), train=train)
        if isinstance(outputs, tuple):
            raise UserError("config.objective.name='augmix' needs a model of one head")
        logits = outputs.reshape(rows, views, -1)
        values = {
            "label": self.config.weight * self.label_loss(logits[:, 0], batch["label"]),
            "views": self.consistency * jensen_shannon(logits),
        }
        metrics = {"accuracy": self.loss.is_correct(logits[:, 0], batch["label"])}
        return Losses(values, logits[:, 0], metrics)

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, teachers or labels by attention.
        """
        if self.terms or self.teachers or self.relabel:
            raise UserError(
                "config.objective.name='augmix' holds views against each other: it takes no terms, "
                "teachers or relabel"
            )


def jensen_shannon(logits: Float[Array, "B V C"]) -> Float[Array, " B"]:
    """The mean divergence of the views' distributions from their mean."""
    logs = jax.nn.log_softmax(accumulated(logits))
    shares = jnp.exp(logs)
    mean = jnp.log(jnp.clip(jnp.mean(shares, axis=1, keepdims=True), SMALLEST, 1))
    return jnp.mean(jnp.sum(shares * (logs - mean), axis=-1), axis=1)

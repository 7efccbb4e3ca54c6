"""Matching: a fusion encoder tells an image's own text from another's."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.fusion import FusionEncoder, fused
from scanmax.train.config import Config
from scanmax.train.losses.base import accumulated
from scanmax.train.objectives.base import Batch, Losses, Objective, check_no_labels
from scanmax.train.objectives.contrastive import mask_of


class Matching(Objective):
    """softplus(-s(x_i, t_i)) / 2 + softplus(s(x_i, t_j)) / 2, j the next row of the batch.

    s is the score of a fusion encoder, which the config's ViT becomes: it reads words beside its
    patches. Where the next row says the same, the second half is nothing.

    Reference: dide-distilled-dual-encoder
    """

    data_kind: ClassVar[str] = "image_text"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    accumulates: ClassVar[bool] = False

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The loss of each example [B]."""
        loss, right, scores = self.pairs(batch, train)
        return Losses({"matching": self.config.weight * loss}, scores, {"accuracy": right})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """The loss, and how many of an image's two texts are told."""
        loss, right, _ = self.pairs(batch, False)
        return {"loss": loss, "accuracy": right}

    def pairs(
        self, batch: Batch, train: bool
    ) -> tuple[Float[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
        """Loss, share that is right, and score of the own text, of each image."""
        images, tokens = self.inputs(batch), jnp.asarray(batch["tokens"])
        other = tokens[next_counted(mask_of(batch))]
        scores = self.model(
            jnp.concatenate([images, images]), train=train, tokens=jnp.concatenate([tokens, other])
        )
        own, others = jnp.split(accumulated(scores), 2)
        differs = jnp.any(other != tokens, axis=1)
        loss = jax.nn.softplus(-own) + jnp.where(differs, jax.nn.softplus(others), 0)
        told = jnp.where(differs, others < 0, own > 0)
        right = ((own > 0).astype(loss.dtype) + told.astype(loss.dtype)) / 2
        return loss / 2, right, own

    @staticmethod
    def beside(batch: Batch) -> Batch:
        return {"tokens": batch["tokens"]}

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The fusion encoder of the ViT's sizes."""
        if isinstance(model, FusionEncoder):
            return model
        return fused(model, pipeline.vocab_size, pipeline.text_length)

    @nn.nowrap
    def check(self) -> None:
        """Refuses options of labels, terms and teachers.

        Raises:
          UserError: one of them.
        """
        check_no_labels(self.config)
        if self.terms or self.teachers:
            raise UserError(
                f"config.objective.name={self.config.name!r} takes no terms or teachers: it is one"
            )


def next_counted(counts: Array) -> Array:
    """[B] of each row that counts the next that does, the first behind the last; of others itself.

    >>> import jax.numpy as jnp
    >>> next_counted(jnp.asarray([True, False, True, True])).tolist()
    [2, 1, 3, 0]
    """
    rows = jnp.arange(len(counts))
    order = jnp.argsort(~counts, stable=True)
    place = jnp.cumsum(counts) % jnp.maximum(jnp.sum(counts), 1)
    return jnp.where(counts, order[place], rows)

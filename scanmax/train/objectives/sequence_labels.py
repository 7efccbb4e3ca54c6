"""Labels of some of a sequence's tokens."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from scanmax.train.losses.base import accumulated
from scanmax.train.metrics import is_correct
from scanmax.train.objectives.base import Batch, Losses, Objective


class SequenceLabels(Objective):
    """Tokens, and targets for some of them; -1 asks nothing. Every example counts as much."""

    data_kind: ClassVar[str] = "labelled_tokens"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Loss per example [B], the mean over what is asked, and the terms'."""
        student = self.ask(self.inputs(batch), train)
        targets, asked = self._asked(batch)
        values = self.label_loss(student.logits, targets)
        values = {"label": self.config.weight * self._mean(values, asked)}
        values = self.add_terms(values, student, batch, teachers)
        right = is_correct(student.logits, targets).astype(jnp.float32)
        return Losses(values, student.logits, {"accuracy": self._mean(right, asked)})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy, and the loss without smoothing."""
        logits = self.model(self.inputs(batch))
        targets, asked = self._asked(batch)
        right = is_correct(logits, targets).astype(jnp.float32)
        return {
            "loss": self._mean(self.loss.value(accumulated(logits), targets, 0.0), asked),
            "accuracy": self._mean(right, asked),
        }

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"]

    def _asked(self, batch: Batch) -> tuple[Array, Array]:
        return jnp.maximum(batch["targets"], 0), batch["targets"] >= 0

    def _mean(self, values: Array, asked: Array) -> Array:
        return jnp.where(asked, values, 0).sum(-1) / jnp.maximum(asked.sum(-1), 1)

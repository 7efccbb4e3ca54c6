"""Regression of one number on a series."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from scanmax.train.objectives.base import Batch, Losses, Objective


class Regression(Objective):
    """A series and one number; the loss is the squared error, right is an error below 0.04."""

    data_kind: ClassVar[str] = "series"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Squared error [B], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        error = self._error(student.logits, batch)
        values = {"label": self.config.weight * jnp.square(error)}
        values = self.add_terms(values, student, batch, teachers)
        return Losses(values, student.logits, {"accuracy": jnp.abs(error) < 0.04})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Squared error, and whether it is small."""
        error = self._error(self.model(self.inputs(batch)), batch)
        return {"loss": jnp.square(error), "accuracy": jnp.abs(error) < 0.04}

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """[B, T, C]"""
        return batch["series"]

    def _error(self, outputs: Array, batch: Batch) -> Array:
        return outputs[:, 0].astype(jnp.float32) - batch["target"]

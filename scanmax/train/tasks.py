"""What a batch means: the model's input, the losses and the metrics of each task."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.errors import UserError
from scanmax.train import losses
from scanmax.train.config import LossConfig
from scanmax.train.metrics import is_correct

Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Images and labels; a model with a distillation token returns a pair in training."""

    config: LossConfig
    data_kind = "image"
    metrics = ("accuracy", "loss")

    def inputs(self, batch: Batch) -> Array:
        """[B, Y, X, C]"""
        return batch["image"]

    def train_losses(self, outputs: Any, batch: Batch, teacher_logits: Array | None) -> Array:
        """Loss per example, [B], distillation included."""
        config = self.config
        loss = self._loss()
        class_logits, distill_logits = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        values = loss(class_logits, batch["label"], label_smoothing=config.label_smoothing)
        if teacher_logits is not None:
            if config.distillation == "hard":
                extra = losses.hard_distillation(distill_logits, teacher_logits)
            else:
                extra = losses.soft_distillation(
                    distill_logits, teacher_logits, temperature=config.temperature
                )
            return (1 - config.alpha) * values + config.alpha * extra
        if isinstance(outputs, tuple):
            # Without a teacher both heads learn the label.
            other = loss(distill_logits, batch["label"], label_smoothing=config.label_smoothing)
            return (values + other) / 2
        return values

    def values(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        """What is averaged over examples in evaluation; the loss is without smoothing."""
        logits = self.logits(outputs)
        return {
            "loss": self._loss()(logits, batch["label"]),
            "accuracy": is_correct(logits, batch["label"]),
        }

    def logits(self, outputs: Any) -> Array:
        """[B, classes]; the two heads of a distilled model are averaged."""
        return sum(outputs) / len(outputs) if isinstance(outputs, tuple) else outputs

    def _loss(self) -> Callable[..., Array]:
        return losses.get_loss(self.config.name)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Rows of T + 1 tokens: every token predicts the next."""

    config: LossConfig
    data_kind = "tokens"
    metrics = ("accuracy", "bits_per_byte", "loss", "perplexity")

    def inputs(self, batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"][:, :-1]

    def train_losses(self, outputs: Any, batch: Batch, teacher_logits: Array | None) -> Array:
        """Loss per token, [B, T]."""
        loss = losses.get_loss(self.config.name)
        targets = batch["tokens"][:, 1:]
        values = loss(outputs, targets, label_smoothing=self.config.label_smoothing)
        if teacher_logits is None:
            return values
        if self.config.distillation == "hard":
            extra = losses.hard_distillation(outputs, teacher_logits)
        else:
            extra = losses.soft_distillation(
                outputs, teacher_logits, temperature=self.config.temperature
            )
        return (1 - self.config.alpha) * values + self.config.alpha * extra

    def values(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        """What is averaged over tokens in evaluation."""
        targets = batch["tokens"][:, 1:]
        return {
            "token_loss": losses.get_loss(self.config.name)(outputs, targets),
            "accuracy": is_correct(outputs, targets),
        }

    def logits(self, outputs: Any) -> Array:
        """[B, T, vocab]"""
        return outputs


@dataclasses.dataclass(frozen=True)
class SequenceLabels:
    """Tokens, and targets for some of them; -1 asks nothing. Every example counts as much."""

    config: LossConfig
    data_kind = "labelled_tokens"
    metrics = ("accuracy", "loss")

    def inputs(self, batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"]

    def train_losses(self, outputs: Any, batch: Batch, teacher_logits: Array | None) -> Array:
        """Loss per example, [B]: the mean over what is asked."""
        if teacher_logits is not None:
            raise UserError("config.loss.teacher: sequence_labels are learned without a teacher")
        loss = losses.get_loss(self.config.name)
        targets, asked = self._asked(batch)
        return self._mean(
            loss(outputs, targets, label_smoothing=self.config.label_smoothing), asked
        )

    def values(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        """What is averaged over examples in evaluation; the loss is without smoothing."""
        targets, asked = self._asked(batch)
        right = is_correct(outputs, targets).astype(jnp.float32)
        return {
            "loss": self._mean(losses.get_loss(self.config.name)(outputs, targets), asked),
            "accuracy": self._mean(right, asked),
        }

    def logits(self, outputs: Any) -> Array:
        """[B, T, vocab]"""
        return outputs

    def _asked(self, batch: Batch) -> tuple[Array, Array]:
        return jnp.maximum(batch["targets"], 0), batch["targets"] >= 0

    def _mean(self, values: Array, asked: Array) -> Array:
        return jnp.where(asked, values, 0).sum(-1) / jnp.maximum(asked.sum(-1), 1)


@dataclasses.dataclass(frozen=True)
class Regression:
    """A series and one number; the loss is the squared error, right is an error below 0.04."""

    config: LossConfig
    data_kind = "series"
    metrics = ("accuracy", "loss")

    def inputs(self, batch: Batch) -> Array:
        """[B, T, C]"""
        return batch["series"]

    def train_losses(self, outputs: Any, batch: Batch, teacher_logits: Array | None) -> Array:
        """Squared error per example, [B]."""
        if teacher_logits is not None:
            raise UserError("config.loss.teacher: regression is learned without a teacher")
        return jnp.square(self._error(outputs, batch))

    def values(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        """What is averaged over examples in evaluation."""
        error = self._error(outputs, batch)
        return {"loss": jnp.square(error), "accuracy": jnp.abs(error) < 0.04}

    def logits(self, outputs: Any) -> Array:
        """[B, 1]"""
        return outputs

    def _error(self, outputs: Array, batch: Batch) -> Array:
        return outputs[:, 0].astype(jnp.float32) - batch["target"]


TASKS = {
    "classification": Classification,
    "language_model": LanguageModel,
    "regression": Regression,
    "sequence_labels": SequenceLabels,
}


def example_mask(batch: Batch) -> Array:
    """The batch's mask, [B]; without one every row counts."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    return batch.get("mask", jnp.ones((rows,), bool))

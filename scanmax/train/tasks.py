"""What a batch means: the model's input, the losses and the metrics of each task."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

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


TASKS = {"classification": Classification, "language_model": LanguageModel}


def example_mask(batch: Batch) -> Array:
    """The batch's mask, [B]; without one every row counts."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    return batch.get("mask", jnp.ones((rows,), bool))

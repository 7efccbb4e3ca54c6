"""Prediction of the next token."""

from typing import Any, ClassVar

from jaxtyping import Array

from scanmax.train.losses import get_loss
from scanmax.train.metrics import is_correct
from scanmax.train.objectives.base import Batch, Losses, Objective


class LanguageModel(Objective):
    """Rows of T + 1 tokens: every token predicts the next. Terms see logits [B, T, vocab]."""

    data_kind: ClassVar[str] = "tokens"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "bits_per_byte", "loss", "perplexity")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy of each token [B, T], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        targets = batch["tokens"][:, 1:]
        loss = get_loss(self.config.loss)
        values = loss(student.logits, targets, label_smoothing=self.config.label_smoothing)
        values = {"label": self.config.weight * values}
        values = self.add_terms(values, student, batch, teachers)
        return Losses(values, student.logits, {"accuracy": is_correct(student.logits, targets)})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss of each token."""
        logits, targets = self.model(self.inputs(batch)), batch["tokens"][:, 1:]
        return {
            "token_loss": get_loss(self.config.loss)(logits, targets),
            "accuracy": is_correct(logits, targets),
        }

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"][:, :-1]

"""Prediction of the next token."""

from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array

from scanmax.errors import UserError
from scanmax.train.losses.base import accumulated
from scanmax.train.metrics import is_correct
from scanmax.train.objectives.base import Batch, Losses, Objective

# From this many times the model's width on, the logits of a vocabulary are never made whole.
WIDE_VOCABULARY = 8


class LanguageModel(Objective):
    """Rows of T + 1 tokens: every token predicts the next. Terms see logits [B, T, vocab].

    Rows that come with "segment_ids" [B, T] hold several documents, which the model keeps apart.

    Attributes:
      fused: take the loss of a piece of the tokens at a time (`ops.linear_cross_entropy`): a third
        more products of the head, and no logits [B, T, vocab] in memory. None does so where the
        vocabulary is at least eight times as large as the model is wide, no term reads logits, the
        loss is softmax's and the model has `token_losses`.
    """

    fused: bool | None = None

    data_kind: ClassVar[str] = "tokens"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "bits_per_byte", "loss", "perplexity")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy of each token [B, T], and the terms'."""
        targets = batch["tokens"][:, 1:]
        if self.in_pieces:
            values, predicted = self.model.token_losses(
                self.inputs(batch),
                targets,
                train=train,
                label_smoothing=self.config.label_smoothing,
                **self.packed(batch),
            )
            found = {"accuracy": predicted == targets}
            return Losses({"label": self.config.weight * values}, None, found)
        student = self.ask(self.inputs(batch), train, **self.packed(batch))
        values = self.label_loss(student.logits, targets)
        values = {"label": self.config.weight * values}
        values = self.add_terms(values, student, batch, teachers)
        return Losses(values, student.logits, {"accuracy": is_correct(student.logits, targets)})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss of each token."""
        inputs, targets = self.inputs(batch), batch["tokens"][:, 1:]
        if self.in_pieces:
            values, predicted = self.model.token_losses(inputs, targets, **self.packed(batch))
            return {"token_loss": values, "accuracy": predicted == targets}
        logits = self.model(inputs, **self.packed(batch))
        return {
            "token_loss": self.loss.value(accumulated(logits), targets, 0.0),
            "accuracy": is_correct(logits, targets),
        }

    @nn.nowrap
    def packed(self, batch: Batch) -> dict[str, Array]:
        """What keeps the documents of a row apart, where a batch holds it.

        Raises:
          UserError: a teacher, whose answer would be of rows that run on, or a model that does not
            keep documents apart.
        """
        if "segment_ids" not in batch:
            return {}
        remedy = "set config.data.kwargs.packed=False, and documents of a row run on"
        if self.teachers:
            raise UserError(f"config.objective.teachers read no packed documents: {remedy}")
        if not getattr(self.model, "packs", False):
            raise UserError(f"the model does not keep the documents of a row apart: {remedy}")
        return {"segment_ids": batch["segment_ids"]}

    @property
    def in_pieces(self) -> bool:
        """Whether the loss is taken of a piece of the tokens at a time."""
        able = not self.refusal()
        if self.fused is None:
            return able and self.model.vocab_size >= WIDE_VOCABULARY * self.model.dim
        return self.fused

    @nn.nowrap
    def refusal(self) -> str:
        """Why the loss needs all logits; "" if it does not."""
        if self.terms:
            return "terms read the logits"
        if self.config.loss != "softmax_cross_entropy":
            return f"config.objective.loss={self.config.loss!r} needs them"
        if self.config.loss_kwargs:
            return f"config.objective.loss_kwargs={self.config.loss_kwargs!r} need them"
        return "" if hasattr(self.model, "token_losses") else "the model has no token_losses"

    @nn.nowrap
    def check(self) -> None:
        """Refuses what the loss in pieces cannot have.

        Raises:
          UserError: `fused` beside something that needs the logits, or a term without its teacher.
        """
        super().check()
        if self.fused and self.refusal():
            raise UserError(f"config.objective.kwargs['fused']=True: {self.refusal()}")

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"][:, :-1]

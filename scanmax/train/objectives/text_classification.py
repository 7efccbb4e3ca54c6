"""Classification of text: one label of a whole sequence."""

from typing import ClassVar

from jaxtyping import Array

from scanmax.train.objectives.base import Batch
from scanmax.train.objectives.classification import Classification


class TextClassification(Classification):
    """Classification of tokens [B, T]; the model knows its padding by itself.

    Reference: textcnn
    """

    data_kind: ClassVar[str] = "labelled_text"

    @staticmethod
    def inputs(batch: Batch) -> Array:
        """[B, T]"""
        return batch["tokens"]

"""Classification by angles: features and classes are points of one sphere."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import choice, ranged
from scanmax.train.losses.base import is_class
from scanmax.train.objectives.base import Batch, Losses, Objective
from scanmax.train.objectives.class_vectors import ClassVectors
from scanmax.train.objectives.classification import classified


class CosineClassification(Objective):
    """The logit of a class is scale * (cos(f, v_c) - margin [c is the label]).

    f are the model's pooled features, v_c the vector of a class: learned beside the model
    (normalised softmax; with a margin that of CosFace), or fixed (equiangular basis vectors, which
    may be narrower than there are classes). Any loss of labels is taken of these logits. What is
    exported is the model, whose features compare by cosine, of classes that it never saw too;
    evaluator "knn" tells how well.

    Attributes:
      vectors: "learned" or "equiangular".
      dim: width of the vectors, which features are projected to; 0 is the features' own.
      scale: of the cosines, the inverse of a temperature.
      margin: what the label's cosine must be ahead in training.
      max_cosine: between fixed vectors.

    Reference: hyperspherical-normalized-softmax, equiangular-basis-vectors
    """

    vectors: str = choice("learned", ("learned", "equiangular"))
    dim: int = ranged(0, "[0, inf)")
    scale: float = ranged(14.0, "(0, inf)")
    margin: float = ranged(0.0, "[0, 2)")
    max_cosine: float = ranged(0.5, "(0, 1)")

    data_kind: ClassVar[str] = "image"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")
    headless: ClassVar[bool] = True

    def setup(self):
        is_fixed = self.vectors == "equiangular"
        self.angles = ClassVectors(self.classes, self.dim, is_fixed, self.max_cosine)

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The loss of labels [B], and the terms', which see the logits without the margin."""
        student, labels = self.ask(self.inputs(batch), train), batch["label"]
        logits = self.scale * self.cosines(student.logits)
        ahead = logits
        if self.margin:
            if not is_class(labels):
                raise UserError(
                    f"config.objective.kwargs: margin={self.margin} is of one class, and "
                    "config.mix mixes labels; set margin=0 or config.mix=()"
                )
            own = jax.nn.one_hot(labels, self.classes, dtype=logits.dtype)
            ahead = logits - self.scale * self.margin * own
        values = {"label": self.config.weight * self.label_loss(ahead, labels)}
        values = self.add_terms(values, student._replace(logits=logits), batch, teachers)
        return Losses(values, logits, {"accuracy": self.loss.is_correct(logits, labels)})

    def cosines(self, features: Any) -> Float[Array, "B C"]:
        """Of pooled features with the vectors.

        Raises:
          UserError: the model gives something else.
        """
        if isinstance(features, tuple) or features.ndim != 2:
            raise UserError(
                f"config.objective.name={self.config.name!r} reads pooled features [B, D]; "
                f"{type(self.model).__name__} gives others without its head"
            )
        return self.angles(features)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy, and the loss without smoothing, margin and weights of classes."""
        logits = self.scale * self.cosines(self.model(self.inputs(batch)))
        return classified(logits, batch["label"], self.loss)

    def predict(self, batch: Batch) -> dict[str, Array]:
        """Probabilities of the classes."""
        logits = self.scale * self.cosines(self.model(self.inputs(batch)))
        return {"probability": self.loss.probabilities(logits)}

    @nn.nowrap
    def check(self) -> None:
        super().check()
        if self.classes < 2:
            raise UserError(f"config.objective.name={self.config.name!r} needs two classes or more")

"""Classification of images, by one head or two."""

from typing import Any, ClassVar

from jaxtyping import Array

from scanmax.train.losses import Loss
from scanmax.train.losses.base import accumulated
from scanmax.train.objectives.base import Batch, Losses, Objective, merged, probabilities


class Classification(Objective):
    """Images and labels; a model with a distillation token returns a pair in training.

    The first head learns the label and the second what the terms ask; without terms both learn the
    label. Evaluation averages the two.

    Reference: deit
    """

    data_kind: ClassVar[str] = "image"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy [B], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        outputs = student.logits
        heads = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        values = self.label_loss(heads[0], batch["label"])
        if isinstance(outputs, tuple) and not self.terms:
            values = (values + self.label_loss(heads[1], batch["label"])) / 2
        values = {"label": self.config.weight * values}
        values = self.add_terms(values, student._replace(logits=heads[1]), batch, teachers)
        metrics = {"accuracy": self.loss.is_correct(merged(outputs), batch["label"])}
        return Losses(values, outputs, metrics)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy, and the loss without smoothing and weights of classes."""
        return classified(self.model(self.inputs(batch)), batch["label"], self.loss)

    def predict(self, batch: Batch) -> dict[str, Array]:
        """Probabilities of the classes."""
        return {"probability": probabilities(merged(self.model(self.inputs(batch))))}


def classified(outputs: Any, labels: Array, loss: Loss) -> dict[str, Array]:
    """Accuracy and loss of each example by the labels, the mean of several heads' counting."""
    logits = accumulated(merged(outputs))
    return {
        "loss": loss.value(logits, labels, 0.0),
        "accuracy": loss.is_correct(logits, labels),
    }

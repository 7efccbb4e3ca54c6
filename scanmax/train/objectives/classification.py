"""Classification of images, by one head or two."""

from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array

from scanmax.train.losses import Loss
from scanmax.train.losses.base import accumulated
from scanmax.train.objectives.base import Batch, Losses, Objective, merged
from scanmax.train.relabels import make_relabel


class Classification(Objective):
    """Images and labels; a model with a distillation token returns a pair in training.

    The first head learns the label and the second what the terms ask; without terms both learn the
    label. Evaluation averages the two.

    Attributes:
      relabel: what labels of mixed images become by the model's attention, a name of RELABELS such
        as "transmix", or a pair of it and its options; "" leaves them.

    Reference: deit
    """

    relabel: Any = ""

    data_kind: ClassVar[str] = "image"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy [B], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        outputs = student.logits
        heads = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        labels, relabel = batch["label"], make_relabel(self.relabel)
        # Nothing is mixed yet where the model is initialised.
        if relabel is not None and "mix_labels" in batch:
            labels = relabel(batch, student, self.model)
        values = self.label_loss(heads[0], labels)
        if isinstance(outputs, tuple) and not self.terms:
            values = (values + self.label_loss(heads[1], labels)) / 2
        values = {"label": self.config.weight * values}
        values = self.add_terms(values, student._replace(logits=heads[1]), batch, teachers)
        metrics = {"accuracy": self.loss.is_correct(merged(outputs), batch["label"])}
        return Losses(values, outputs, metrics)

    @property
    def reads_taps(self) -> bool:
        """Whether a term reads activations of the model, or labels its attention."""
        return super().reads_taps or bool(self.relabel)

    @nn.nowrap
    def check(self) -> None:
        super().check()
        make_relabel(self.relabel)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy, and the loss without smoothing and weights of classes."""
        return classified(self.model(self.inputs(batch)), batch["label"], self.loss)

    def predict(self, batch: Batch) -> dict[str, Array]:
        """Probabilities of the classes."""
        logits = merged(self.model(self.inputs(batch)))
        return {"probability": self.loss.probabilities(logits)}


def classified(outputs: Any, labels: Array, loss: Loss) -> dict[str, Array]:
    """Accuracy and loss of each example by the labels, the mean of several heads' counting."""
    logits = accumulated(merged(outputs))
    return {
        "loss": loss.value(logits, labels, 0.0),
        "accuracy": loss.is_correct(logits, labels),
    }

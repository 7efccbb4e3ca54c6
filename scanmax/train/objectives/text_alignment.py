"""GPT4Image: a classifier whose features stand near what is said of their own image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import choice, ranged
from scanmax.models.towers import similarities, unit
from scanmax.train.losses.contrast import row_contrast, softmax_contrast
from scanmax.train.objectives.base import Batch, Losses, merged
from scanmax.train.objectives.classification import classified
from scanmax.train.objectives.contrastive import mask_of, matched, teacher_towers
from scanmax.train.objectives.named import Labelled
from scanmax.train.objectives.views import Projector

FORMS = ("clip", "images", "cosine")


class TextAlignment(Labelled):
    """weight * CE(label) + align * distance(u, s), u = unit(P h), s the text's own unit vector.

        form "clip":   -(log softmax_j(u_i s_j / t)_i + log softmax_j(u_j s_i / t)_i) / 2
        form "images": -log softmax_j(u_i s_j / t)_i
        form "cosine": 2 - 2 u_i s_i

    h are the pooled features of the config's model and P two layers beside it, twice as wide as the
    texts' space between them, or one linear map, the last without a bias; both are left behind at
    export. A teacher's text tower, frozen, reads the text of each image, which the data bring
    (published: descriptions by a multimodal language model); its images are not asked for. A label
    of -1 says nothing.

    Attributes:
      dim: width of the texts' space.
      align: weight of the distance, as released.
      form: of it.
      temperature: t.
      linear: whether P is one linear map.

    Reference: gpt4image
    """

    dim: int = ranged(512, "[1, inf)")
    align: float = ranged(0.3, "(0, inf)")
    form: str = choice("clip", FORMS)
    temperature: float = ranged(0.05, "(0, inf)")
    linear: bool = False

    def setup(self):
        widths = (self.dim,) if self.linear else (2 * self.dim, self.dim)
        self.projector = Projector(widths, batch_norm=False)

    @property
    def accumulates(self) -> bool:
        """Only a cosine compares an image with its own text alone."""
        return self.form == "cosine"

    @property
    def reads_taps(self) -> bool:
        """The pooled features lie before the head."""
        return True

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The losses of each example [B], by their names."""
        inputs, labels = self.inputs(batch), batch["label"]
        text = self.teachers[0](teachers[0], inputs, **self.told_beside(batch)).logits.text
        if text.shape[-1] != self.dim:
            raise UserError(
                f"config.objective.kwargs of {self.config.name!r}: dim={self.dim}, and the "
                f"teacher's space has {text.shape[-1]}"
            )
        student = self.ask(inputs, train)
        features = student.tap("pre_logits")
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        own, logits = unit(self.projector(features, train=train)), merged(student.logits)
        values = {"text": self.align * self.distance(own, text, batch)}
        if self.config.weight:
            values["label"] = self.config.weight * self.labelled(logits, labels)
        metrics = {
            "accuracy": self.loss.is_correct(logits, labels),
            "text_cosine": jnp.sum(own * text, axis=1),
        }
        return Losses(values, student.logits, metrics)

    def distance(
        self, own: Float[Array, "B E"], text: Float[Array, "B E"], batch: Batch
    ) -> Float[Array, "B"]:
        """Of each image to its text, others as its form says."""
        if self.form == "cosine":
            return 2 - 2 * jnp.sum(own * text, axis=1)
        logits = similarities(own, text) / self.temperature
        contrast = softmax_contrast if self.form == "clip" else row_contrast
        return contrast(logits, mask_of(batch))

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss of the labels."""
        return classified(self.model(self.inputs(batch)), batch["label"], self.loss)

    def predict(self, batch: Batch) -> dict[str, Array]:
        """Probabilities of the classes."""
        logits = merged(self.model(self.inputs(batch)))
        return {"probability": self.loss.probabilities(logits)}

    @staticmethod
    def told_beside(batch: Batch) -> Batch:
        return {"tokens": batch["tokens"]}

    @staticmethod
    def judge(outputs: Any, batch: Batch) -> dict[str, Array]:
        return {"matched": matched(outputs, mask_of(batch))}

    @classmethod
    def taught_by(cls, model: nn.Module, options: dict[str, Any], field: str, pipeline: Any) -> Any:
        """Two towers, their text as the option "towers" says."""
        return teacher_towers(model, options, field, pipeline)

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, none or several teachers.
        """
        super().check()
        if self.terms or len(self.teachers) != 1:
            raise UserError(
                f"config.objective.name={self.config.name!r} learns from the text tower of one "
                "teacher, and takes no terms"
            )

"""Image models that learn from two towers what classes are called."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.parts.heads import DualHead, UnitProjection
from scanmax.models.towers import Captions, TwoTowers, ZeroShot, similarities
from scanmax.train.config import Config
from scanmax.train.losses import soft_distillation
from scanmax.train.losses.contrast import row_contrast
from scanmax.train.metrics import is_correct
from scanmax.train.objectives.base import Batch, Losses, Objective, merged
from scanmax.train.objectives.classification import classified
from scanmax.train.objectives.contrastive import TEXT, teacher_towers, towers, types_of


class Labelled(Objective):
    """What objectives share that learn classes of images with texts; a label of -1 says nothing."""

    data_kind: ClassVar[str] = "image_text"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def labelled(self, logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> Array:
        """The loss of labels [B], 0 where there is none."""
        loss = self.label_loss(logits, jnp.maximum(labels, 0))
        return jnp.where(labels >= 0, loss, 0)


class CaptionedClasses(Labelled):
    """weight * CE(s cos(image, caption of each class), label), by two towers, and the terms'.

    Classes are told by their captions, which the text tower reads in each step, so that it learns
    too; a label of -1 says nothing. Prompts of both towers, with all else frozen, make the teacher
    of PromptKD: `config.model.kwargs={"prompts": 4, "prompt_depth": 9}`, the same among the fields
    of `text`, `config.optim.freeze=("^(?!.*prompts)",)`, and `config.model.weights` of a run of
    "clip" with `config.model.adapt=("prompts",)`. What is exported are two towers.

    Attributes:
      text: the text tower, a pair of a registered model of text and its fields.
      dim: width of the space where towers meet.
      scale: of the cosines at the start; it is learned.
      max_scale: it grows no further.

    Reference: promptkd
    """

    text: Any = TEXT
    dim: int = ranged(512, "[1, inf)")
    scale: float = ranged(1 / 0.07, "(0, inf)")
    max_scale: float = ranged(100.0, "(0, inf)")

    headless: ClassVar[bool] = True

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy [B], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        values = {"label": self.config.weight * self.labelled(student.logits, batch["label"])}
        values = self.add_terms(values, student, batch, teachers)
        metrics = {"accuracy": is_correct(student.logits, batch["label"])}
        return Losses(values, student.logits, metrics)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss."""
        return classified(self.model(self.inputs(batch)), batch["label"], self.loss)

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The two towers around the image model, as a classifier where data bring captions.

        A trained model, of whose data no more than the sizes is known, is the two towers.

        Raises:
          UserError: data without captions of classes.
        """
        kind, fields, own = TwoTowers, {}, config.objective
        if hasattr(pipeline, "class_tokens"):
            if pipeline.class_tokens is None:
                raise UserError(
                    f"config.objective.name={own.name!r} tells classes by their captions, and "
                    "these data hold none"
                )
            kind, fields = ZeroShot, {"captions": Captions(pipeline.class_tokens)}
        if isinstance(model, TwoTowers):
            names = [field.name for field in dataclasses.fields(TwoTowers)]
            told = {name: getattr(model, name) for name in names if name not in ("parent", "name")}
            return kind(**told, **fields)
        fields["init_scale"] = own.kwargs.get("scale", cls.scale)
        fields["max_scale"] = own.kwargs.get("max_scale", cls.max_scale)
        image = super().read_as(model, config, pipeline)
        return towers(image, own.kwargs, fields, "config.objective.kwargs", pipeline, kind)


class TaughtByNames(Labelled):
    """What objectives share whose teachers tell classes by captions, which the data bring.

    A teacher's vectors of classes are found once, when a run begins.

    What a subclass says of itself:
      hears_whole: whether a teacher gives `Named`, not logits alone.
    """

    headless: ClassVar[bool] = True
    hears_whole: ClassVar[bool] = False

    @classmethod
    def taught_by(cls, model: nn.Module, options: dict[str, Any], field: str, pipeline: Any) -> Any:
        """Two towers as a classifier.

        Raises:
          UserError: data without captions of classes.
        """
        if pipeline.class_tokens is None:
            raise UserError(f"{field} tells classes by their captions, and these data hold none")
        fields = {"captions": Captions(pipeline.class_tokens), "whole": cls.hears_whole}
        return teacher_towers(model, options, field, pipeline, ZeroShot, **fields)


class DualHeadOptimization(TaughtByNames):
    """weight * CE(labels' head, label) of those that have one, and the terms' of the taught head.

    `("kd", {"weight": 0.5, "temperature": 1.0})` is the published one. Features are shared, heads
    are not: the two losses do not pull at one of them. The answer is a mixture of both.

    Attributes:
      share: of the labels' head in it.
      temperature: of the taught head in it.

    Reference: dho-dual-head
    """

    share: float = ranged(0.5, "[0, 1]")
    temperature: float = ranged(1.0, "(0, inf)")

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Cross-entropy [B], and the terms'."""
        student = self.ask(self.inputs(batch), train)
        outputs = student.logits
        labels, taught = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        values = {"label": self.config.weight * self.labelled(labels, batch["label"])}
        values = self.add_terms(values, student._replace(logits=taught), batch, teachers)
        return Losses(values, outputs, {"accuracy": is_correct(merged(outputs), batch["label"])})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss of the mixture."""
        return classified(self.model(self.inputs(batch)), batch["label"], self.loss)

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The image model with both heads."""
        if isinstance(model, DualHead):
            return model
        image = super().read_as(model, config, pipeline)
        own = config.objective.kwargs
        mixture = {name: own.get(name, getattr(cls, name)) for name in ("share", "temperature")}
        return DualHead(image, pipeline.num_classes, **mixture, **types_of(image))


class SharedVectors(TaughtByNames):
    """A student's unit vectors e among the teacher's: its own v of images, and W of classes.

        weight * CE(s W e, label) + coherence * KL(softmax(s W v) || softmax(s W e))
            + mimicry * |e - v|^2 + neighbours * (-log softmax_j(s v_j e_i)_i)

    s is the teacher's scale. The image model, with two layers behind it, is what learns; classes
    that no label names are told apart by their captions too. Coherence alone, with
    `config.objective.weight=0`, needs no labels and is PromptKD's loss. A frozen student is
    `config.optim.freeze=("model/image/.*",)`; with prompts, `config.model.kwargs={"prompts": 4,
    "prompt_depth": 9}`, it is all but these, `freeze=("model/image/(?!.*prompts)",)`, and starts
    from two towers by `config.model.adapt=("head", "prompts")`. W is carried for held-out
    examples, and left behind at export with the text tower.

    Attributes:
      dim: width of the teacher's space.
      hidden: width between the two layers.
      coherence: weight of the answers by classes.
      mimicry: weight of the distance.
      neighbours: weight of the contrast among images.
      batch_norm: a batch norm and relu between the layers, as PromptKD has them; else gelu.

    Reference: promptkd, large-vlm-distill-ood
    """

    dim: int = ranged(512, "[1, inf)")
    hidden: int = ranged(512, "[1, inf)")
    coherence: float = ranged(1.0, "[0, inf)")
    mimicry: float = ranged(0.0, "[0, inf)")
    neighbours: float = ranged(0.0, "[0, inf)")
    batch_norm: bool = False

    hears_whole: ClassVar[bool] = True

    def setup(self):
        def kept(name, shape):
            return self.variable("class_vectors", name, lambda: jnp.zeros(shape, jnp.float32))

        self.vectors, self.scale = kept("vectors", (self.classes, self.dim)), kept("scale", ())

    @property
    def accumulates(self) -> bool:
        """Only the contrast compares rows, and a batch norm."""
        return not (self.neighbours or self.batch_norm)

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The losses of each example [B], by their names."""
        inputs, labels = self.inputs(batch), batch["label"]
        told = self.teachers[0](teachers[0], inputs).logits
        if told.classes.shape != self.vectors.value.shape:
            raise UserError(
                f"config.objective.kwargs of {self.config.name!r}: dim={self.dim}, and the "
                f"teacher's space has {told.classes.shape[1]}"
            )
        self.vectors.value, self.scale.value = told.classes, told.scale
        own = self.model(inputs, train=train)
        logits = told.scale * similarities(own, told.classes)
        values = {}
        if self.config.weight:
            values["label"] = self.config.weight * self.labelled(logits, labels)
        if self.coherence:
            values["coherence"] = self.coherence * soft_distillation(
                logits, told.logits, temperature=1.0
            )
        if self.mimicry:
            values["mimicry"] = self.mimicry * jnp.sum(jnp.square(own - told.image), axis=1)
        if self.neighbours:
            near = told.scale * similarities(own, told.image)
            mask = batch.get("mask", jnp.ones(len(labels), bool))
            values["neighbours"] = self.neighbours * row_contrast(near, mask)
        return Losses(values, logits, {"accuracy": is_correct(logits, labels)})

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Accuracy and loss by the vectors of classes of the last step."""
        vectors, scale = self.vectors.value, self.scale.value
        logits = scale * similarities(self.model(self.inputs(batch)), vectors)
        return classified(logits, batch["label"], self.loss)

    @staticmethod
    def judge(outputs: Any, batch: Batch) -> dict[str, Array]:
        return {"accuracy": is_correct(outputs.logits, batch["label"])}

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The image model with a projection into the teacher's space."""
        if isinstance(model, UnitProjection):
            return model
        image = super().read_as(model, config, pipeline)
        own = config.objective.kwargs
        names = ("dim", "hidden", "batch_norm")
        fields = {name: own.get(name, getattr(cls, name)) for name in names}
        return UnitProjection(image, **fields, **types_of(image))

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, none or several teachers, or nothing to learn.
        """
        super().check()
        field = f"config.objective.name={self.config.name!r}"
        if self.terms or len(self.teachers) != 1:
            raise UserError(f"{field} learns from one teacher, and takes no terms")
        if not any((self.config.weight, self.coherence, self.mimicry, self.neighbours)):
            raise UserError(f"{field}: no weight is above 0")

"""CLIP and SigLIP: an image and what is said of it among all images and texts of the batch."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError, suggest
from scanmax.fields import ranged
from scanmax.models.fusion import FusionEncoder, fused
from scanmax.models.towers import Pairs, TwoTowers, similarities
from scanmax.train.config import Config
from scanmax.train.losses.contrast import margin_contrast, sigmoid_contrast, softmax_contrast
from scanmax.train.objectives.base import Batch, Losses, Objective, check_no_labels

# What a teacher's option "towers" may say.
TOWERS = ("text", "dim", "bias", "fused")
TEXT = ("lm_tiny", {})


class Contrastive(Objective):
    """What objectives share that hold images and texts against each other.

    The config's model is the image tower; with the text tower beside it, it becomes the run's
    model, `TwoTowers`, and what is exported. The batch is the global one on every mesh: more
    devices mean no fewer negatives. Held-out losses are of the held-out batches: they depend on
    `eval_batch_size`, the evaluators "zero_shot" and "retrieval" do not.

    Attributes:
      text: the text tower, a pair of a registered model of text and its fields.
      dim: width of the space where towers meet.
      scale: of the cosines at the start, the inverse of a temperature; it is learned.
      hide: share of the patches of an image that are blank to the model in training, not to its
        teachers.
      patch: their side.
    """

    text: Any = TEXT
    dim: int = ranged(512, "[1, inf)")
    scale: float = ranged(1 / 0.07, "(0, inf)")
    hide: float = ranged(0.0, "[0, 1)")
    patch: int = ranged(16, "[1, inf)")

    data_kind: ClassVar[str] = "image_text"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "matched")
    headless: ClassVar[bool] = True
    gives_pairs: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def contrast(self, pairs: Pairs, mask: Bool[Array, " B"]) -> Float[Array, " B"]:
        """The loss of each example; those that the mask leaves out are no negatives either."""
        raise NotImplementedError

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The contrast of each example [B], and the terms'."""
        images = self.inputs(batch)
        if train and self.hide:
            images = self.partly_hidden(images)
        student = self.ask(images, train, **self.beside(batch))
        pairs, mask = student.logits, mask_of(batch)
        values = {"contrast": self.config.weight * self.contrast(pairs, mask)}
        values = self.add_terms(values, student, batch, teachers)
        metrics = {
            "matched": matched(pairs, mask),
            "scale": jnp.broadcast_to(pairs.scale, mask.shape),
        }
        return Losses(values, pairs, metrics)

    def partly_hidden(self, images: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        """Images of which so many patches, drawn for each, are the mean colour.

        Raises:
          UserError: patches do not divide them.
        """
        rows, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise UserError(
                f"config.objective.kwargs of {self.config.name!r}: patch={self.patch} does not "
                f"divide images of {height} x {width}"
            )
        grid = (height // self.patch, width // self.patch)
        places = grid[0] * grid[1]
        draws = jax.random.uniform(self.make_rng("objective"), (rows, places))
        order = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
        seen = (order >= round(self.hide * places)).reshape(rows, *grid)
        seen = jnp.repeat(jnp.repeat(seen, self.patch, axis=1), self.patch, axis=2)
        return jnp.where(seen[..., None], images, 0)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """The contrast within the batch, and whether text and image find each other there."""
        pairs, mask = self.model(self.inputs(batch), **self.beside(batch)), mask_of(batch)
        return {"loss": self.contrast(pairs, mask), "matched": matched(pairs, mask)}

    @staticmethod
    def beside(batch: Batch) -> Batch:
        return {"tokens": batch["tokens"]}

    @staticmethod
    def judge(outputs: Any, batch: Batch) -> dict[str, Array]:
        if not isinstance(outputs, Pairs):
            # Of a fusion encoder: whether it finds that a pair is one.
            return {"matched": (outputs > 0).astype(jnp.float32)}
        return {"matched": matched(outputs, mask_of(batch))}

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The two towers around the image model; towers stay what they are."""
        if isinstance(model, TwoTowers):
            return model
        options = {"scale": cls.scale, **config.objective.kwargs}
        fields = {"init_scale": options["scale"], **cls.tower_fields(options)}
        image = super().read_as(model, config, pipeline)
        return towers(image, options, fields, "config.objective.kwargs", pipeline)

    @classmethod
    def tower_fields(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the towers that the objective decides."""
        return {}

    @classmethod
    def taught_by(cls, model: nn.Module, options: dict[str, Any], field: str, pipeline: Any) -> Any:
        """Two towers, their text as the option "towers" says, or a fusion encoder."""
        if dict(options.get("towers", {})).get("fused"):
            return fused_teacher(model, options, field, pipeline)
        return teacher_towers(model, options, field, pipeline)

    @nn.nowrap
    def check(self) -> None:
        """Refuses options of labels.

        Raises:
          UserError: one of them.
        """
        super().check()
        check_no_labels(self.config)


class Clip(Contrastive):
    """The own text among all texts, and the own image among all images.

        l_i = -(log softmax_j(s t_ij)_i + log softmax_j(s t_ji)_i) / 2,  t = cosine similarity

    Attributes:
      max_scale: the learned scale s grows no further.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
      2021.
    """

    max_scale: float = ranged(100.0, "(0, inf)")

    def contrast(self, pairs: Pairs, mask: Bool[Array, " B"]) -> Float[Array, " B"]:
        """[B]"""
        return softmax_contrast(pairs.logits, mask)

    @classmethod
    def tower_fields(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"max_scale": options.get("max_scale", cls.max_scale)}


class Siglip(Contrastive):
    """Each image and each text of the batch: do they belong together?

        l_i = sum_j softplus(-z_ij (s t_ij + b)),  z_ij = 1 for i = j, else -1

    Attributes:
      bias: b at the start, which is learned: most pairs do not belong together.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.
    """

    scale: float = ranged(10.0, "(0, inf)")
    bias: float = -10.0

    def contrast(self, pairs: Pairs, mask: Bool[Array, " B"]) -> Float[Array, " B"]:
        """[B]"""
        return sigmoid_contrast(pairs.logits, mask)

    @classmethod
    def tower_fields(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"max_scale": math.inf, "init_bias": options.get("bias", cls.bias)}


class MaxMargin(Contrastive):
    """A pair is nearer than its image is to any other text, and its text to any other image.

        l_i = mean_j [relu(m + t_ij - t_ii) + relu(m + t_ji - t_ii)] / 2,  j != i, t the cosines

    The towers' scale is not learned.

    Attributes:
      margin: m.

    Reference: teachtext
    """

    margin: float = ranged(0.2, "[0, inf)")

    def contrast(self, pairs: Pairs, mask: Bool[Array, " B"]) -> Float[Array, " B"]:
        """[B]"""
        return margin_contrast(similarities(pairs.image, pairs.text), mask, self.margin)


def teacher_towers(
    model: nn.Module,
    options: Mapping[str, Any],
    field: str,
    pipeline: Any,
    kind: type[TwoTowers] = TwoTowers,
    **fields: Any,
) -> TwoTowers:
    """The towers of a teacher, its text as the option "towers" says.

    Args:
      model: its image model.
      options: the teacher's.
      field: what names it in a message.
      pipeline: the data.
      kind: of towers.
      fields: further ones of these.

    Raises:
      UserError: an option that towers have not, or a model without a head to go without.
    """
    told = dict(options.get("towers", {}))
    if told.pop("fused", False):
        raise UserError(f"{field}: this objective asks two towers, not a fusion encoder")
    for key in told:
        if key not in TOWERS:
            raise UserError(f"{field}: towers have no option {key!r}; {suggest(key, TOWERS)}")
    if not hasattr(model, "num_classes"):
        raise UserError(f"{field}: {type(model).__name__} is no model of images with a head")
    # What SigLIP learned has no highest scale.
    fields |= {"init_bias": 0.0, "max_scale": math.inf} if told.get("bias") else {}
    return towers(model.clone(num_classes=0), told, fields, f"{field}: towers", pipeline, kind)


def fused_teacher(
    model: nn.Module, options: Mapping[str, Any], field: str, pipeline: Any
) -> FusionEncoder:
    """The fusion encoder of a teacher's ViT.

    Args:
      model: the ViT.
      options: the teacher's.
      field: what names it in a message.
      pipeline: the data.

    Raises:
      UserError: options of two towers beside it, or a model that is no ViT.
    """
    others = sorted(set(options["towers"]) - {"fused"})
    if others:
        raise UserError(f"{field}: towers that are fused take no option {others[0]!r}")
    return fused(model, pipeline.vocab_size, pipeline.text_length)


def towers(
    image: nn.Module,
    options: Mapping[str, Any],
    fields: dict[str, Any],
    field: str,
    pipeline: Any,
    kind: type[TwoTowers] = TwoTowers,
) -> TwoTowers:
    """Two towers of the same types.

    Args:
      image: the image model, without its head.
      options: "text" and "dim", of an objective or a teacher.
      fields: further ones of the towers.
      field: what names the options in a message.
      pipeline: the data.
      kind: of towers.

    Raises:
      UserError: a text tower that is none.
    """
    from scanmax.models.registry import create_model, model_info

    text = options.get("text", TEXT)
    text = (text, {}) if isinstance(text, str) else text
    if not isinstance(text, tuple | list) or len(text) != 2 or not isinstance(text[1], Mapping):
        raise UserError(
            f"{field}: text={text!r} must be a pair of a model and its fields, such as "
            "('lm_tiny', {'dim': 64})"
        )
    name, own = text
    info = model_info(name)
    if info.input_kind != "tokens":
        raise UserError(f"{field}: text={name!r} reads images; take a model of text")
    types = types_of(image)
    told = {**types, "vocab_size": pipeline.vocab_size, **own}
    try:
        model = create_model(name, **told)
    except (TypeError, ValueError) as error:
        raise UserError(f"{field}: text {name!r}: {error}") from error
    if hasattr(model, "num_classes"):
        model = model.clone(num_classes=0)
    dim, length = options.get("dim", 512), pipeline.text_length
    return kind(image, model, dim=dim, text_length=length, **types, **fields)


def types_of(model: nn.Module) -> dict[str, Any]:
    """The types that a model computes and keeps parameters in."""
    return {name: getattr(model, name, jnp.float32) for name in ("dtype", "param_dtype")}


def mask_of(batch: Batch) -> Bool[Array, " B"]:
    """Which rows count."""
    return batch.get("mask", jnp.ones(len(batch["tokens"]), bool))


def matched(pairs: Pairs, mask: Bool[Array, " B"]) -> Float[Array, " B"]:
    """How much of each pair finds its other half first within the batch: none, half, all."""
    logits = pairs.logits
    kept = mask[None] | jnp.eye(len(logits), dtype=bool)
    found = [
        jnp.diagonal(each) >= jnp.max(jnp.where(kept, each, -jnp.inf), axis=1)
        for each in (logits, logits.T)
    ]
    return (found[0].astype(logits.dtype) + found[1].astype(logits.dtype)) / 2

"""Mutual learning: two networks that learn the same labels and each other's answers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses import soft_distillation
from scanmax.train.losses.base import accumulated
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.classification import Classification, classified
from scanmax.train.objectives.contrastive import types_of


class Mutual(Classification):
    """L(x, y) + L(x', y) + mutual t^2 (KL(sg p' || p) + KL(sg p || p')), p' of the partner

    Both networks read the same images and are trained by one step; none is a teacher. The model is
    what is evaluated, kept and exported as ever; the partner's parameters lie under "peer", and its
    accuracy is told beside.

    Attributes:
      partner: the other network: a name, or a pair of a name and its fields such as
        ("resnet18", {"dims": (16, 32)}); "" is one like the model, which starts elsewhere.
      mutual: weight of the divergences.
      temperature: t.
      selective: of each example the network whose loss of the label is lower teaches, and the other
        alone learns of it, as CNNs and transformers collaborate pixel by pixel in
        cnn-vit-collab-kd.

    Reference: Zhang et al., Deep Mutual Learning, 2018, of which `selective=True` is
      cnn-vit-collab-kd's answer for whole images.
    """

    partner: Any = ""
    mutual: float = ranged(1.0, "[0, inf)")
    temperature: float = ranged(1.0, "(0, inf)")
    selective: bool = False

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "peer_accuracy", "loss")

    def setup(self) -> None:
        self.peer = self.made()

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """Both losses of the label [B], and what they learn of each other."""
        images, labels = self.inputs(batch), batch["label"]
        own, other = (network(images, train=train) for network in (self.model, self.peer))
        if isinstance(own, tuple) or isinstance(other, tuple):
            raise UserError("config.objective.name='mutual' needs models of one head")
        losses = self.label_loss(own, labels), self.label_loss(other, labels)
        apart = divergences(own, other, self.temperature)
        if self.selective:
            own_is_worse = jax.lax.stop_gradient(losses[0] > losses[1])
            apart = (
                jnp.where(own_is_worse, apart[0], 0),
                jnp.where(own_is_worse, 0, apart[1]),
            )
        values = {
            "label": self.config.weight * losses[0],
            "peer_label": self.config.weight * losses[1],
            "mutual": self.mutual * (apart[0] + apart[1]),
        }
        right = self.loss.is_correct
        metrics = {"accuracy": right(own, labels), "peer_accuracy": right(other, labels)}
        return Losses(values, own, metrics)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """As of a classification, and the partner's accuracy."""
        other = classified(self.peer(self.inputs(batch)), batch["label"], self.loss)
        return super().evaluate(batch) | {"peer_accuracy": other["accuracy"]}

    @nn.nowrap
    def made(self) -> nn.Module:
        """The partner.

        Raises:
          UserError: a partner that is none.
        """
        from scanmax.models.registry import create_model, model_info

        if not self.partner:
            return self.model.clone(parent=None, name=None)
        told = (self.partner, {}) if isinstance(self.partner, str) else self.partner
        if not isinstance(told, tuple | list) or len(told) != 2 or not isinstance(told[1], Mapping):
            raise UserError(
                f"config.objective.kwargs: partner={told!r} must be a name, or a pair of it and "
                "its fields, such as ('resnet18', {'dims': (16, 32)})"
            )
        name, fields = told
        if model_info(name).input_kind != "image":
            raise UserError(f"config.objective.kwargs: partner={name!r} reads no images")
        return create_model(name, self.classes, **{**types_of(self.model), **fields})

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed, and a partner that cannot be made.

        Raises:
          UserError: terms, teachers or labels by attention; such a partner.
        """
        if self.terms or self.teachers or self.relabel:
            raise UserError(
                "config.objective.name='mutual' holds two students against each other: it takes no "
                "terms, teachers or relabel"
            )
        self.made()


def divergences(
    own: Float[Array, "B C"], other: Float[Array, "B C"], temperature: float
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """What each is from the other, by a gradient to the first alone and to the second alone."""
    pair = accumulated(own), accumulated(other)
    fixed = tuple(map(jax.lax.stop_gradient, pair))
    return (
        soft_distillation(pair[0], fixed[1], temperature=temperature),
        soft_distillation(pair[1], fixed[0], temperature=temperature),
    )

"""BYOL: one network foretells what its own moving average says of another view."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.momentum import asked, begun, moved
from scanmax.train.objectives.views import Projector, TwoViews, check_widths, unit


class Byol(TwoViews):
    """The predictor of one view against the teacher's projection of the other, both ways.

        loss = 2 - 2 cos(q(z_1), z'_2) + 2 - 2 cos(q(z_2), z'_1)

    The teacher is the moving average of model and projector, carried as the collection "momentum".
    In training it normalises by its own batch, as the model does; elsewhere by the model's running
    averages.

    Attributes:
      momentum: share of the teacher that the first update keeps; it rises to 1 as a cosine.
      projector_widths: widths of the layers between features and loss.
      predictor_widths: of the predictor's hidden layers; its last is as wide as the projector's.
      batch_norm: whether hidden layers are normalised over the batch.

    Reference: Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning,
      2020.
    """

    momentum: float = 0.996
    projector_widths: tuple[int, ...] = (4096, 256)
    predictor_widths: tuple[int, ...] = (4096,)
    batch_norm: bool = True

    def setup(self):
        self.projector = Projector(tuple(self.projector_widths), self.batch_norm)
        widths = (*self.predictor_widths, self.projector_widths[-1])
        self.predictor = Projector(widths, self.batch_norm)

    @property
    def accumulates(self) -> bool:
        """Without batch norm the loss compares no rows."""
        return not self.batch_norm

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The loss of each example [B]."""
        views = batch["image"][:, 0], batch["image"][:, 1]
        # One pass for each view, as published: batch norms see a view by itself.
        features = [self.features(images, train) for images in views]
        projected = [self.projector(found, train=train) for found in features]
        foretold = [self.predictor(found, train=train) for found in projected]
        targets = [self.teach(images, train) for images in views]
        loss = distance(foretold[0], targets[1]) + distance(foretold[1], targets[0])
        return self.found(loss, features, projected, batch)

    def teach(self, images: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B P"]:
        """The teacher's projection of a view; no gradient flows."""
        if self.is_initializing():
            # There is no teacher yet: `begin` makes it of what is being initialised.
            return jnp.zeros((images.shape[0], self.projector_widths[-1]), images.dtype)
        features, _ = asked(self, "model", self.model.clone(), images, train)
        projector = Projector(tuple(self.projector_widths), self.batch_norm, parent=None)
        return jax.lax.stop_gradient(asked(self, "projector", projector, features, train)[0])

    @nn.nowrap
    def begin(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """The teacher begins as the model and its projector are."""
        return {**carried, "momentum": begun(params, ("model", "projector"))}

    @nn.nowrap
    def after_update(self, params: Any, carried: dict[str, Any], step: Array) -> dict[str, Any]:
        """The teacher takes a small step towards the model."""
        rate = teacher_rate(self.momentum, step, self.total_steps)
        return {**carried, "momentum": moved(carried["momentum"], params, rate)}

    @nn.nowrap
    def check(self) -> None:
        super().check()
        check_widths("byol", "projector_widths", self.projector_widths)
        check_widths("byol", "predictor_widths", self.predictor_widths)
        if not 0 <= self.momentum <= 1:
            raise UserError(
                f"config.objective.kwargs of 'byol': momentum={self.momentum} must be in [0, 1]"
            )


def teacher_rate(momentum: float, step: Array, total: int) -> Float[Array, ""]:
    """(1 - momentum) (cos(pi step / total) + 1) / 2: what is not kept, none at the end."""
    return (1 - momentum) * (jnp.cos(jnp.pi * (step / total)) + 1) / 2


def distance(foretold: Float[Array, "B P"], target: Float[Array, "B P"]) -> Float[Array, " B"]:
    """2 - 2 cos: the squared distance of the two, each of length 1."""
    return 2 - 2 * jnp.sum(unit(foretold) * unit(target), axis=-1)

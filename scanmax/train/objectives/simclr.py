"""SimCLR: the other view of an image among all views of the batch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.views import Projector, TwoViews, check_widths, unit


class SimClr(TwoViews):
    """Projections of the two views of an image attract each other, all other pairs repel.

    The batch is the global one on every mesh: more devices mean no fewer negatives.

    Attributes:
      temperature: tau of the cosine similarities.
      projector_widths: widths of the layers between features and loss.
      batch_norm: whether the projector's hidden layers are normalised over the batch.

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
      2020.
    """

    temperature: float = 0.1
    projector_widths: tuple[int, ...] = (2048, 128)
    batch_norm: bool = True

    def setup(self):
        self.projector = Projector(tuple(self.projector_widths), self.batch_norm)

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The contrast of each example [B], the mean over its two views."""
        rows, views = batch["image"].shape[:2]
        # Views beside each other: every device keeps its rows.
        images = batch["image"].reshape(rows * views, *batch["image"].shape[2:])
        features = self.features(images, train)
        projected = self.projector(features, train=train).reshape(rows, views, -1)
        loss, is_found = contrast(projected, batch.get("mask"), self.temperature)
        features = features.reshape(rows, views, -1)
        by_view = [list(jnp.moveaxis(found, 1, 0)) for found in (features, projected)]
        return self.found(loss, *by_view, batch, view_accuracy=is_found)

    @nn.nowrap
    def check(self) -> None:
        super().check()
        check_widths("simclr", "projector_widths", self.projector_widths)
        if self.temperature <= 0:
            raise UserError(
                f"config.objective.kwargs of 'simclr': temperature={self.temperature} must be "
                "above 0"
            )


def contrast(
    projected: Float[Array, "B V P"], mask: Bool[Array, " B"] | None, temperature: float
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """NT-Xent of each example, and the share of its views whose partner is the nearest of all.

        l_i = -log( exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) ),  s = cosine similarity

    for views i and j of one image and k over all views of the batch.

    Args:
      projected: two views of each example.
      mask: which examples count, as terms and as negatives; None is all.
      temperature: tau.
    """
    rows, views, _ = projected.shape
    mask = jnp.ones(rows, bool) if mask is None else jnp.asarray(mask)
    z = unit(jnp.where(mask[:, None, None], projected, 0)).reshape(rows * views, -1)
    logits = jnp.matmul(z, z.T, precision="highest") / temperature
    index = jnp.arange(rows * views)
    partner = index ^ 1
    # A row that does not count still has a partner, so that its logits are never empty.
    allowed = mask[index // views] | (index == partner[:, None])
    allowed = allowed & (index != index[:, None])
    logits = jnp.where(allowed, logits, -jnp.inf)
    positive = jnp.take_along_axis(logits, partner[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(logits, axis=1) - positive
    is_found = (positive >= logits.max(axis=1)).astype(loss.dtype)
    return loss.reshape(rows, views).mean(axis=1), is_found.reshape(rows, views).mean(axis=1)

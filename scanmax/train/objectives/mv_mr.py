"""MV-MR: two views of an image keep the distances of each other, and of hand-made descriptions."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.views import Projector, TwoViews, check_widths
from scanmax.train.terms.distance_correlation import distance_correlation

REPRESENTATIONS = ("pixels", "augmented", "hog", "deviation")


class MvMr(TwoViews):
    """mean (z - z')^2 + spread(z) + spread(z') + 1 - dCor(z, z') + sum_k (1 - dCor(z, r_k)).

        spread(z) = mean_d relu(margin - std_b z_bd)

    z are projections of the first view and z' of the second, which is the image itself:
    `data.augment.view_policies=({}, {...})` takes its changes away. dCor is the correlation of
    distances (the term `distance_correlation`, which distils a teacher of any width the same way);
    r_k are fixed descriptions of the second view: its "pixels", histograms of oriented gradients
    ("hog"), standard deviations of 3 x 3 pixels ("deviation"), and the pixels of the first view
    ("augmented"). No negatives, no momentum. Histograms share a gradient's size between the two
    bins beside its angle, where the released code adds the size to one and 1 less it to the other.

    Attributes:
      representations: which of them.
      projector_widths: widths of the layers between features and loss.
      batch_norm: whether the projector's hidden layers are normalised over the batch.
      margin: of the spread.
      bins: angles of a histogram, over half a turn.
      cell: side of what a histogram is of.

    Reference: mv-mr
    """

    representations: tuple[str, ...] = REPRESENTATIONS
    projector_widths: tuple[int, ...] = (8192, 8192, 8192)
    batch_norm: bool = True
    margin: float = ranged(1.0, "[0, inf)")
    bins: int = ranged(24, "[1, inf)")
    cell: int = ranged(8, "[1, inf)")

    def setup(self):
        self.projector = Projector(tuple(self.projector_widths), self.batch_norm)

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The loss of each example [B], of which all but the squares are the batch's."""
        views = [batch["image"][:, view] for view in (0, 1)]
        features = [self.features(images, train) for images in views]
        z, plain = projected = [self.projector(found, train=train) for found in features]
        kept = batch.get("mask", jnp.ones(len(z), bool))
        wide = jnp.promote_types(z.dtype, jnp.float32)
        z, plain = z.astype(wide), plain.astype(wide)
        loss = jnp.mean(jnp.square(z - plain), axis=1)
        loss += sum(jnp.mean(jax.nn.relu(self.margin - deviations(x, kept))) for x in (z, plain))
        loss += 1 - distance_correlation(z, plain, kept)
        metrics = {}
        for name in self.representations:
            images = views[0] if name == "augmented" else views[1]
            fixed = jax.lax.stop_gradient(self.describe(name, images.astype(wide)))
            found = distance_correlation(z, fixed.reshape(len(z), -1), kept)
            loss += 1 - found
            metrics[f"correlation_{name}"] = jnp.broadcast_to(found, loss.shape)
        return self.found(loss, features, projected, batch, **metrics)

    def describe(self, name: str, images: Float[Array, "B Y X C"]) -> Float[Array, "B ..."]:
        """A fixed description of images."""
        if name == "hog":
            return oriented_histograms(images, self.bins, self.cell)
        return local_deviations(images) if name == "deviation" else images

    @nn.nowrap
    def check(self) -> None:
        super().check()
        check_widths("mv_mr", "projector_widths", self.projector_widths)
        unknown = set(self.representations) - set(REPRESENTATIONS)
        if unknown:
            raise UserError(
                f"config.objective.kwargs of 'mv_mr': representations={self.representations} must "
                f"be of {', '.join(REPRESENTATIONS)}"
            )


def deviations(x: Float[Array, "B D"], kept: Bool[Array, "B"]) -> Float[Array, "D"]:
    """The unbiased standard deviation of each column over the rows that count."""
    weights = kept.astype(x.dtype)[:, None]
    count = jnp.sum(weights)
    mean = jnp.sum(weights * x, axis=0) / jnp.maximum(count, 1)
    square = jnp.sum(weights * jnp.square(x - mean), axis=0) / jnp.maximum(count - 1, 1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def local_deviations(images: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """The standard deviation of the 3 x 3 pixels around each, beyond the border its mirror."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = images.shape[1:3]
    near = jnp.stack([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)])
    return jnp.std(near, axis=0)


def oriented_histograms(
    images: Float[Array, "B Y X C"], bins: int, cell: int
) -> Float[Array, "B y x CA"]:
    """Sizes of gradients by their angle, each shared between two bins, as means over cells.

    Gradients are Sobel's, of each channel; what cells do not fill at the border is left out.
    """
    rows, height, width, channels = images.shape
    sobel = jnp.outer(jnp.array([1.0, 2, 1]), jnp.array([1.0, 0, -1])).astype(images.dtype)
    kernel = jnp.stack([sobel, sobel.T], axis=-1)[:, :, None]
    flat = images.transpose(0, 3, 1, 2).reshape(rows * channels, height, width, 1)
    slopes = ops.conv2d(flat, kernel, padding=1)
    size = jnp.sqrt(jnp.sum(jnp.square(slopes), axis=-1))
    place = jnp.arctan2(slopes[..., 0], slopes[..., 1]) / math.pi * bins
    low = jnp.floor(place)
    total = 0.0
    for which, share in ((low, low + 1 - place), (low + 1, place - low)):
        hot = jax.nn.one_hot(jnp.mod(which, bins).astype(jnp.int32), bins, dtype=size.dtype)
        total = total + hot * (share * size)[..., None]
    down, across = height // cell, width // cell
    total = total[:, : down * cell, : across * cell]
    total = total.reshape(rows, channels, down, cell, across, cell, bins).mean(axis=(3, 5))
    return total.transpose(0, 2, 3, 1, 4).reshape(rows, down, across, channels * bins)

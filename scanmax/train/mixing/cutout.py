"""Cutout: a square of each image is blank."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix
from scanmax.train.objectives.base import Batch


@dataclasses.dataclass(frozen=True)
class Cutout(DrawnMix):
    """Squares around any pixel are 0, the mean colour of images that are normalised.

    A square is clipped at the border, so that some show less than its whole; labels stay.

    Attributes:
      per: here each example by default.
      size: side of a square, in pixels.
      holes: squares of an image.

    Reference: cutout
    """

    per: str = "element"
    size: int = ranged(16, "[1, inf)")
    holes: int = ranged(1, "[1, inf)")

    blends: ClassVar[bool] = False

    def __call__(
        self, key: Array, batch: Batch, guide: Float[Array, "B Yg Xg"] | None = None
    ) -> Batch:
        """The batch with holes in its images."""
        images = batch["image"]
        holes = self.cut(key, images.shape[:3])
        return batch | {"image": jnp.where(holes[..., None], 0, images)}

    def cut(self, key: Array, shape: tuple[int, int, int]) -> Bool[Array, "B Y X"]:
        """Where holes are."""
        places, leaves = jax.random.split(key)
        rows, *sides = shape
        draws = self.draws(rows)
        found = jnp.ones((draws, self.holes), bool)[..., None, None]
        for axis, (side, each) in enumerate(zip(sides, jax.random.split(places))):
            middle = jax.random.randint(each, (draws, self.holes, 1), 0, side)
            low = middle - self.size // 2
            along = (jnp.arange(side) >= low) & (jnp.arange(side) < low + self.size)
            found = found & (along[..., None] if axis == 0 else along[..., None, :])
        own = 1 - jnp.any(found, axis=1).astype(jnp.float32)
        return self.unless_left_out(leaves, self.spread(own, rows)) == 0

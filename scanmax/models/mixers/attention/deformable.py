"""Deformable attention as a mixer of maps: every pixel reads a few places around it."""

from typing import ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.deformable import DeformableAttention, pixel_middles


class Deformable(MapMixer):
    """Deformable self-attention of one scale: each pixel says where it reads, and how much there.

    Offsets start as rays from the pixel, one direction a head, and all points as equals.

    Attributes:
      points: that each head reads.
      ratio: width of the values over D.
    """

    formula: ClassVar[str] = "y = W sum_p s_p(x) v(r + o_p(x)),  v between pixels"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("vit-comer",)

    points: int = 4
    ratio: float = 1.0

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        grid, x = maps.shape[1:3], jax.lax.collapse(maps, 1, 3)
        attention = DeformableAttention(
            self.heads,
            points=self.points,
            ratio=self.ratio,
            use_bias=self.use_bias,
            name="deformable",
            **self.dtypes,
        )
        return attention(x, pixel_middles(grid), x, (grid,)).reshape(maps.shape)

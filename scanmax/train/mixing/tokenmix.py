"""TokenMix: patches are the partner's, and labels follow what they show."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, cell_shares, partners, random_cells
from scanmax.train.mixing.maskmix import patch_grid


@dataclasses.dataclass(frozen=True)
class TokenMix(DrawnMix):
    """Any patches are the partner's; a label keeps the share of the guide that still shows.

        w = sum(own * G) / (sum(own * G) + sum((1 - own) * G')),  sum(G) = sum(G') = 1

    G and G' are the guide of the example and of its partner. The released code mixes without the
    division, so that labels may sum to more or less than 1.

    Attributes:
      patch: side of the model's patches, in pixels.
      least: share of the patches that are the partner's at least.
      alpha: w of the share 1 - w beyond that is from Beta(alpha, alpha).

    Reference: Liu et al., TokenMix: Rethinking Image Mixing for Data Augmentation in Vision
      Transformers, 2022, with patches drawn alone ("random"), not in blocks.
    """

    patch: int = ranged(16, "[1, inf)")
    least: float = ranged(14 / 196, "[0, 1)")
    alpha: float = ranged(1.0, "(0, inf)")

    guided: ClassVar[bool] = True

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """0 in the partner's patches, 1 elsewhere."""
        weights, places, leaves = jax.random.split(key, 3)
        grid = patch_grid(shape[1:], self.patch)
        draws = self.draws(shape[0])
        weight = jax.random.beta(weights, self.alpha, self.alpha, (draws,), jnp.float32)
        share = jnp.minimum(1, 1 - weight + self.least)
        count = jnp.floor(share * grid[0] * grid[1]).astype(jnp.int32)
        taken = random_cells(places, count, grid)
        return self.unless_left_out(leaves, self.spread(cell_shares(taken, shape[1:]), shape[0]))

    def label_share(
        self, own: Float[Array, "B Y X"], guide: Float[Array, "B Yg Xg"]
    ) -> Float[Array, " B"]:
        """Of what shows of the two."""
        guide = jax.image.resize(guide, own.shape, "nearest")
        guide = guide / jnp.maximum(jnp.sum(guide, axis=(1, 2), keepdims=True), 1e-12)
        kept = jnp.sum(own * guide, axis=(1, 2))
        gained = jnp.sum((1 - own) * partners(guide), axis=(1, 2))
        return kept / jnp.maximum(kept + gained, 1e-12)

"""TokenMix: patches are the partner's, and labels follow what they show."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, cell_shares, partners, random_cells, symmetric_beta
from scanmax.train.mixing.maskmix import patch_grid

# Sides of a block are at most in this proportion; so many in vain end the search.
ASPECT, TRIALS = 0.3, 10


@dataclasses.dataclass(frozen=True)
class TokenMix(DrawnMix):
    """Blocks of patches are the partner's; a label keeps the share of the guide that still shows.

        w = sum(own * G) / (sum(own * G) + sum((1 - own) * G')),  sum(G) = sum(G') = 1

    G and G' are the guide of the example and of its partner. The released code mixes without the
    division, so that labels may sum to more or less than 1.

    Attributes:
      patch: side of the model's patches, in pixels.
      least: share of the patches that are the partner's at least.
      alpha: w of the share 1 - w beyond that is from Beta(alpha, alpha).
      blocks: whether patches are taken in rectangles; else each by itself.

    Reference: Liu et al., TokenMix: Rethinking Image Mixing for Data Augmentation in Vision
      Transformers, 2022.
    """

    patch: int = ranged(16, "[1, inf)")
    least: float = ranged(14 / 196, "[0, 1)")
    alpha: float = ranged(1.0, "(0, inf)")
    blocks: bool = True

    guided: ClassVar[bool] = True

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """0 in the partner's patches, 1 elsewhere."""
        weights, places, leaves = jax.random.split(key, 3)
        grid = patch_grid(shape[1:], self.patch)
        draws = self.draws(shape[0])
        weight = symmetric_beta(weights, self.alpha, (draws,))
        share = jnp.minimum(1, 1 - weight + self.least)
        count = jnp.floor(share * grid[0] * grid[1]).astype(jnp.int32)
        taken = (block_cells if self.blocks else random_cells)(places, count, grid)
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


def block_cells(
    key: Array, count: Int[Array, " N"], grid: tuple[int, int]
) -> Bool[Array, "N Yg Xg"]:
    """So many cells of a grid, in rectangles of any size, or a few less.

    A rectangle that would take more than are left, or nothing new, is drawn again.
    """
    steps = [jnp.arange(side) for side in grid]

    def goes_on(count, state):
        _, taken, vain = state
        return (jnp.sum(taken) < count) & (vain < TRIALS)

    def draw(count, state):
        key, taken, vain = state
        key, size, shape, place = jax.random.split(key, 4)
        left = count - jnp.sum(taken)
        area = jax.random.uniform(size, (), jnp.float32, 1, left)
        bound = -jnp.log(jnp.float32(ASPECT))
        aspect = jnp.exp(jax.random.uniform(shape, (), jnp.float32, -bound, bound))
        sides = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect]))).astype(jnp.int32)
        free = jnp.asarray(grid) - sides
        start = jnp.floor(jax.random.uniform(place, (2,)) * (free + 1)).astype(jnp.int32)
        along = [
            (step >= first) & (step < first + side)
            for step, first, side in zip(steps, start, sides)
        ]
        block = along[0][:, None] & along[1]
        gained = jnp.sum(block & ~taken)
        is_good = jnp.all(free > 0) & (gained > 0) & (gained <= left)
        return key, taken | (block & is_good), jnp.where(is_good, 0, vain + 1)

    def cells(key, count):
        begin = (key, jnp.zeros(grid, bool), jnp.zeros((), jnp.int32))
        goes, step = (functools.partial(each, count) for each in (goes_on, draw))
        return jax.lax.while_loop(goes, step, begin)[1]

    return jax.vmap(cells)(jax.random.split(key, len(count)), count)

"""SMMix: the partner's most looked-at square over the least looked-at square of one's own."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.fields import pair
from scanmax.train.mixing.base import DrawnMix, cell_shares, partners
from scanmax.train.mixing.maskmix import patch_grid


@dataclasses.dataclass(frozen=True)
class SmMix(DrawnMix):
    """A square of patches moves from where the guide sums to most in the partner.

    It is pasted where the guide sums to least in the example. Its side is drawn from whole numbers
    of patches; labels are mixed by the share of the pixels.

    Attributes:
      patch: side of the model's patches, in pixels.
      sides: least and largest side, as shares of the image's shorter one.

    Reference: smmix
    """

    patch: int = 16
    sides: tuple[float, float] = pair((0.25, 0.75), "(0, 1]")

    guided: ClassVar[bool] = True

    def plan(
        self, key: Array, images: Float[Array, "B Y X C"], guide: Float[Array, "B Yg Xg"]
    ) -> tuple[Float[Array, "B Y X"], Float[Array, "B Y X C"]]:
        """Shares that are 0 in the square, and partners moved so that theirs lies in it."""
        lengths, leaves = jax.random.split(key)
        rows, height, width, _ = images.shape
        grid = patch_grid((height, width), self.patch)
        low, high = (max(1, int(share * min(grid))) for share in self.sides)
        side = jax.random.randint(lengths, (self.draws(rows),), low, high + 1)
        side = self.spread(side, rows)
        maps = jax.image.resize(guide, (rows, *grid), "linear")
        to = least_square(maps, side)
        source = least_square(-partners(maps), side)
        steps = [jnp.arange(each) for each in grid]
        inside = [
            (step >= to[:, axis, None]) & (step < (to[:, axis] + side)[:, None])
            for axis, step in enumerate(steps)
        ]
        own = cell_shares(inside[0][:, :, None] & inside[1][:, None, :], (height, width))

        def moved(image, by):
            return jnp.roll(image, by, axis=(0, 1))

        pasted = jax.vmap(moved)(partners(images), (to - source) * self.patch)
        return self.unless_left_out(leaves, own), pasted


def least_square(maps: Float[Array, "B Yg Xg"], side: Int[Array, " B"]) -> Int[Array, "B 2"]:
    """Where the square of each row's side begins that sums to least, of those within the map."""
    rows, *grid = maps.shape
    sums = jnp.pad(jnp.cumsum(jnp.cumsum(maps, axis=1), axis=2), ((0, 0), (1, 0), (1, 0)))
    starts = [jnp.arange(each) for each in grid]

    def squares(sums, side):
        ends = [jnp.minimum(start + side, each) for start, each in zip(starts, grid)]
        below, above = sums[ends[0]], sums[:-1]
        found = below[:, ends[1]] - below[:, :-1] - above[:, ends[1]] + above[:, :-1]
        fits = [start <= each - side for start, each in zip(starts, grid)]
        return jnp.where(fits[0][:, None] & fits[1], found, jnp.inf)

    best = jnp.argmin(jax.vmap(squares)(sums, side).reshape(rows, -1), axis=1)
    return jnp.stack([best // grid[1], best % grid[1]], axis=1)

"""MaskMix: a random mask of cells that are as large as some patches."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, cell_shares, random_cells, symmetric_beta


@dataclasses.dataclass(frozen=True)
class MaskMix(DrawnMix):
    """Cells of a whole number of patches are the partner's, a share 1 - w of them rounded up.

    No patch holds pixels of two images. With objective.kwargs={"relabel": "mixpro"} it is MixPro.

    Attributes:
      patch: side of the model's patches, in pixels.
      patches: of them along a cell's side; the published models have 2 to 8.
      alpha: w is from Beta(alpha, alpha).

    Reference: mixpro
    """

    patch: int = ranged(16, "[1, inf)")
    patches: int = ranged(4, "[1, inf)")
    alpha: float = ranged(1.0, "(0, inf)")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """0 in the partner's cells, 1 elsewhere."""
        weights, places, leaves = jax.random.split(key, 3)
        rows, *sides = shape
        grid = patch_grid(tuple(sides), self.patch)
        # The last cells are narrower where cells do not divide the patches.
        cells = tuple(-(-each // self.patches) for each in grid)
        draws = self.draws(rows)
        weight = symmetric_beta(weights, self.alpha, (draws,))
        count = jnp.ceil((1 - weight) * cells[0] * cells[1]).astype(jnp.int32)
        taken = random_cells(places, count, cells)
        for axis, each in enumerate(grid):
            taken = jnp.repeat(taken, self.patches, axis=axis + 1)
            taken = jax.lax.slice_in_dim(taken, 0, each, axis=axis + 1)
        return self.unless_left_out(leaves, self.spread(cell_shares(taken, tuple(sides)), rows))


def patch_grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Patches along each side.

    Raises:
      UserError: they do not divide the image.
    """
    if any(side % patch for side in size):
        raise UserError(
            f"config.mix: patch={patch} does not divide images of {size[0]} x {size[1]}"
        )
    return size[0] // patch, size[1] // patch

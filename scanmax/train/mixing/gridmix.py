"""GridMix: cells of a grid are the partner's."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, cell_shares, random_cells, symmetric_beta


@dataclasses.dataclass(frozen=True)
class GridMix(DrawnMix):
    """A share 1 - w of the cells, w from Beta(alpha, alpha), are the partner's, any of them.

    Attributes:
      grid: cells along each side.
      alpha: of the Beta distribution.

    Reference: Baek et al., GridMix: Strong regularization through local context mapping, 2021,
      without its loss of single cells.
    """

    grid: int = ranged(4, "[1, inf)")
    alpha: float = ranged(1.0, "(0, inf)")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """0 in the partner's cells, 1 elsewhere."""
        weights, places, leaves = jax.random.split(key, 3)
        draws = self.draws(shape[0])
        weight = symmetric_beta(weights, self.alpha, (draws,))
        count = jnp.round((1 - weight) * self.grid**2).astype(jnp.int32)
        taken = random_cells(places, count, (self.grid, self.grid))
        return self.unless_left_out(leaves, self.spread(cell_shares(taken, shape[1:]), shape[0]))

"""CutMix: a box of each image is its partner's."""

import dataclasses

import jax
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, box_shares, symmetric_beta


@dataclasses.dataclass(frozen=True)
class CutMix(DrawnMix):
    """A box of share 1 - w, w from Beta(alpha, alpha), is pasted from the partner.

    Labels are mixed by the exact share of the pixels, after the box is clipped at the border; its
    sides and place are timm's.

    Attributes:
      alpha: of the Beta distribution.

    Reference: deit
    """

    alpha: float = ranged(1.0, "(0, inf)")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """1 outside of the box, 0 inside."""
        weights, centres, leaves = jax.random.split(key, 3)
        draws = self.draws(shape[0])
        weight = symmetric_beta(weights, self.alpha, (draws,))
        own = box_shares(weight, jax.random.uniform(centres, (draws, 2)), shape[1:])
        return self.unless_left_out(leaves, self.spread(own, shape[0]))

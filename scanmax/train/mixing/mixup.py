"""Mixup: each image is a weighted mean of itself and its partner."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, symmetric_beta


@dataclasses.dataclass(frozen=True)
class Mixup(DrawnMix):
    """w * own + (1 - w) * partner, images and labels alike, w from Beta(alpha, alpha).

    Attributes:
      alpha: of the Beta distribution.

    Reference: deit
    """

    alpha: float = ranged(1.0, "(0, inf)")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """w at every pixel."""
        weights, leaves = jax.random.split(key)
        draws = self.draws(shape[0])
        weight = symmetric_beta(weights, self.alpha, (draws,))
        own = jnp.broadcast_to(self.spread(weight, shape[0])[:, None, None], shape)
        return self.unless_left_out(leaves, own)

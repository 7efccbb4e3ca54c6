"""Mixup or CutMix, one of the two for each batch, pair or example."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix
from scanmax.train.mixing.cutmix import CutMix
from scanmax.train.mixing.mixup import Mixup


@dataclasses.dataclass(frozen=True)
class MixupCutmix(DrawnMix):
    """What the DeiT recipe does: CutMix with probability `switch`, else mixup.

    Attributes:
      mixup: alpha of mixup.
      cutmix: alpha of CutMix.
      switch: probability of CutMix.

    Reference: deit
    """

    mixup: float = ranged(0.8, "(0, inf)")
    cutmix: float = ranged(1.0, "(0, inf)")
    switch: float = ranged(0.5, "[0, 1]")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Array | None = None
    ) -> Float[Array, "B Y X"]:
        """The share of one of the two."""
        choices, cuts, blends, leaves = jax.random.split(key, 4)
        always = {"classes": self.classes, "per": self.per}
        cut = CutMix(**always, alpha=self.cutmix).own_share(cuts, shape)
        blended = Mixup(**always, alpha=self.mixup).own_share(blends, shape)
        drawn = jax.random.uniform(choices, (self.draws(shape[0]),)) < self.switch
        chosen = self.spread(drawn, shape[0])[:, None, None]
        return self.unless_left_out(leaves, jnp.where(chosen, cut, blended))

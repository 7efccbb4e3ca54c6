"""TransMix: labels by what the class token attends to."""

import dataclasses

from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.relabels.base import Mixed, Relabel


@dataclasses.dataclass(frozen=True)
class TransMix(Relabel):
    """ratio * A + (1 - ratio) * area, A the share of the class token's attention on one's own.

    Attributes:
      ratio: of attention; 0 leaves the label of the area.

    Reference: Chen et al., TransMix: Attend to Mix for Vision Transformers, 2022.
    """

    ratio: float = ranged(0.5, "[0, 1]")

    def share(self, mixed: Mixed) -> Float[Array, " B"]:
        """[B]"""
        return self.ratio * mixed.seen() + (1 - self.ratio) * mixed.weight

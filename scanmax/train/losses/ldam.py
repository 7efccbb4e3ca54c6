"""LDAM: the rarer a class, the wider its margin."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss
from scanmax.train.losses.cross_entropy import softmax_cross_entropy


@dataclasses.dataclass(frozen=True)
class Ldam(Loss):
    """Cross-entropy of scale * (x - margin_y at the label y), margin_c as n_c^(-1/4).

    Published over logits that are cosines: those of objective "cosine_classification", whose own
    scale is then 1. With beta=0.9999 and defer=0.8 it is LDAM-DRW.

    Attributes:
      max_margin: margin of the rarest class; 0 is cross-entropy.
      scale: of the logits.

    Reference: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
      2019.
    """

    max_margin: float = ranged(0.5, "[0, inf)")
    scale: float = ranged(30.0, "(0, inf)")

    blends: ClassVar[bool] = False
    smooths: ClassVar[bool] = False
    reads_counts: ClassVar[bool] = True

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        margins = np.asarray(self.counts, np.float64) ** -0.25
        margins = jnp.asarray(margins * self.max_margin / margins.max(), logits.dtype)
        own = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return softmax_cross_entropy(self.scale * (logits - own * margins), labels)

"""The Z-loss: how far the label's logit stands out, in standard deviations."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, distributions

# Variance below which logits are one number, as those of a head that begins at zero.
FLAT = 1e-8


@dataclasses.dataclass(frozen=True)
class ZLoss(Loss):
    """softplus(a (b - z_y)) / a, z = (x - mean(x)) / std(x) over the classes.

    Neither a shift nor a scale of the logits changes it; of labels that are distributions it is the
    mean. (Not the square of log sum exp that language models add by that name.)

    Attributes:
      a: steepness.
      b: deviations that the label's logit must stand out; the most that one of C can is
        sqrt(C - 1).

    Reference: z-loss-spherical
    """

    a: float = ranged(1.0, "(0, inf)")
    b: float = ranged(2.0, "(-inf, inf)")

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        deviations = centred / jnp.sqrt(jnp.maximum(variance, FLAT))
        values = jax.nn.softplus(self.a * (self.b - deviations))
        return jnp.sum(distributions(labels, logits, smoothing) * values, axis=-1) / self.a

"""Sharpness-aware minimisation: the gradient where the loss is highest nearby."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scanmax.train.gradients.base import GradientRule, StepLoss


@dataclasses.dataclass(frozen=True)
class Sam(GradientRule):
    """The gradient at params + rho g / |g|, where g is the gradient at params.

        adaptive:   params + rho w^2 g / |w g|   with w = |params|

    Both norms are over all parameters together, those of `optim.freeze` included. Loss, metrics and
    batch statistics are those of the first pass. A step costs two gradients. With accumulation
    both gradients are those of the whole batch.

    Attributes:
      rho: length of the step uphill.
      adaptive: whether it is measured in each parameter's own size.

    Source: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization
    (2021); adaptive: Kwon et al., ASAM (2021).
    """

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise ValueError(f"rho={self.rho} must not be negative")

    def __call__(self, loss: StepLoss, params: Any, key: Array) -> tuple[tuple[Array, Any], Any]:
        """((loss, aux) at params, gradient uphill of them)"""
        del key
        found, gradient = loss.gradient(params)
        weights = jax.tree.map(lambda p: jnp.abs(p) if self.adaptive else jnp.ones_like(p), params)
        scaled = jax.tree.map(jnp.multiply, weights, gradient)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(scaled)))
        length = self.rho / jnp.where(norm > 0, norm, 1)
        uphill = jax.tree.map(lambda p, w, s: p + length * w * s, params, weights, scaled)
        return found, loss.gradient(uphill)[1]

"""Softmaxes of the spherical family: squares and parabolas in the place of exponentials."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice, ranged
from scanmax.train.losses.base import Labels, Loss, accumulated, distributions


@dataclasses.dataclass(frozen=True)
class SphericalSoftmax(Loss):
    """-sum_c p_c log(f(x_c) / sum_k f(x_k)), a function of x_c, sum(x) and sum(x^2) alone.

    Attributes:
      kind: "taylor", f(x) = 1 + x + x^2 / 2, or "square", f(x) = x^2 + epsilon.
      epsilon: of "square".

    Reference: z-loss-spherical; de Brebisson and Vincent, An Exploration of Softmax Alternatives
      Belonging to the Spherical Loss Family, 2016.
    """

    kind: str = choice("taylor", ("taylor", "square"))
    epsilon: float = ranged(1e-3, "(0, inf)")

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        logs = jnp.log(self.probabilities(logits))
        return -jnp.sum(distributions(labels, logits, smoothing) * logs, axis=-1)

    def probabilities(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """f(x) / sum f(x)."""
        logits = accumulated(logits)
        squares = jnp.square(logits)
        # The polynomial is never below a half.
        scores = squares + self.epsilon if self.kind == "square" else 1 + logits + squares / 2
        return scores / jnp.sum(scores, axis=-1, keepdims=True)

"""The soft top-k loss: probabilities that sum to k, high where labels are."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss
from scanmax.train.losses.decoupled_softmax import positive_shares

# Halvings of the bracket: beyond the digits of float64.
HALVINGS = 64


@dataclasses.dataclass(frozen=True)
class SoftTopK(Loss):
    """-sum_p w_p log q_p, q = sigmoid(alpha (s + t)), t such that q sums to k; s = x / temperature.

    The w are as in "decoupled_softmax".

    Attributes:
      k: how many classes are chosen; below the number of classes.
      alpha: sharpness.
      temperature: of the logits.

    Reference: dexml-decoupled-softmax
    """

    k: int = ranged(5, "[1, inf)")
    alpha: float = ranged(1.0, "(0, inf)")
    temperature: float = ranged(1.0, "(0, inf)")

    smooths: ClassVar[bool] = False

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        if self.k >= logits.shape[-1]:
            raise UserError(
                f"config.objective.loss_kwargs: k={self.k} must be below the "
                f"{logits.shape[-1]} classes that the model answers with"
            )
        scores = self.alpha * logits / self.temperature
        chosen = jax.nn.log_sigmoid(scores + topk_shift(scores, self.k))
        return -jnp.sum(positive_shares(labels, logits) * chosen, axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def topk_shift(scores: Float[Array, "*B C"], k: int) -> Float[Array, "*B 1"]:
    """The t at which sigmoid(scores + t) sums to k, by halving a bracket.

    Its gradient is that of the equation, -v / sum(v) with v = q (1 - q), not of the halvings.
    """
    low = -jnp.max(scores, axis=-1, keepdims=True) - 10
    high = -jnp.min(scores, axis=-1, keepdims=True) + 10
    # At the ends all are below k / C, or above.
    margin = jnp.log(jnp.asarray(scores.shape[-1], scores.dtype))
    low, high = low - margin, high + margin

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        few = jnp.sum(jax.nn.sigmoid(scores + middle), axis=-1, keepdims=True) < k
        return jnp.where(few, middle, low), jnp.where(few, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return (low + high) / 2


@topk_shift.defjvp
def _topk_shift_jvp(k, primals, tangents):
    shift = topk_shift(*primals, k)
    chosen = jax.nn.sigmoid(primals[0] + shift)
    slopes = chosen * (1 - chosen)
    total = jnp.sum(slopes, axis=-1, keepdims=True)
    moved = jnp.sum(slopes * tangents[0], axis=-1, keepdims=True)
    # Where all are chosen or not, to the last digit, no score moves anything.
    return shift, -moved / jnp.where(total > 0, total, 1)

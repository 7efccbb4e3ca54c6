"""Cross-entropy under the softmax and under the stablemax."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.softmax.softmax import log_stablemax
from scanmax.train.losses.base import Labels, Loss, accumulated, distributions, is_class


def softmax_cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Int[Array, "*B"] | Float[Array, "*B C"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*B"]:
    """Cross-entropy -sum_c p_c log softmax(logits)_c.

    Args:
      logits: [*B, C].
      labels: class indices [*B], or distributions [*B, C] (mixed labels).
      label_smoothing: share e of the target spread evenly: p = (1 - e) label + e / C.

    Returns:
      [*B], in float32 or wider.

    Reference: deit
    """
    logits = accumulated(logits)
    if is_class(labels) and not label_smoothing:
        # Without a one-hot matrix: at a language model's vocabulary it would double the memory.
        chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen
    targets = distributions(labels, logits, label_smoothing)
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def stablemax_cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Int[Array, "*B"] | Float[Array, "*B C"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*B"]:
    """Cross-entropy -sum_c p_c log stablemax(logits)_c; arguments as softmax_cross_entropy.

    Reference: stablemax-perpgrad
    """
    logits = accumulated(logits)
    targets = distributions(labels, logits, label_smoothing)
    return -jnp.sum(targets * log_stablemax(logits), axis=-1)


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-sum_c p_c log softmax(logits)_c.

    Reference: deit
    """

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        return softmax_cross_entropy(logits, labels, label_smoothing=smoothing)


@dataclasses.dataclass(frozen=True)
class StablemaxCrossEntropy(Loss):
    """-sum_c p_c log stablemax(logits)_c.

    Reference: stablemax-perpgrad
    """

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        return stablemax_cross_entropy(logits, labels, label_smoothing=smoothing)

    def probabilities(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """The stablemax."""
        return jnp.exp(log_stablemax(accumulated(logits)))

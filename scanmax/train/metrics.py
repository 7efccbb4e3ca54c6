"""Metrics that are exact under padding and sharding: pairs (sum, weight), added before dividing.

A mean of means over batches of different weight would be wrong; a sum of masked sums is not.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Sums = dict[str, tuple[Array, Array]]


def masked_sums(
    values: Mapping[str, Float[Array, "*B"] | Bool[Array, "*B"]], mask: Bool[Array, "..."]
) -> Sums:
    """Sums each array of values over the entries that the mask keeps.

    Args:
      values: name -> values per example or per token, all of one shape.
      mask: [B], or the values' shape.

    Returns:
      name -> (sum, weight), float32 scalars.
    """
    sums = {}
    for name, value in values.items():
        weights = jnp.broadcast_to(
            mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value.shape
        )
        # where, not a product: padding may hold anything, NaN included.
        kept = jnp.where(weights, value.astype(jnp.float32), 0.0)
        sums[name] = (jnp.sum(kept), jnp.sum(weights.astype(jnp.float32)))
    return sums


def add_sums(left: Sums, right: Sums) -> Sums:
    """Adds two results of masked_sums."""
    return jax.tree.map(jnp.add, left, right)


def finalize(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divides; a language model's loss in nats also becomes bits per byte and perplexity."""
    means = {name: float(total) / max(float(weight), 1.0) for name, (total, weight) in sums.items()}
    if "token_loss" in means:
        loss = means.pop("token_loss")
        means["loss"] = loss
        means["bits_per_byte"] = loss / math.log(2)
        means["perplexity"] = math.exp(min(loss, 80.0))
    return means


def is_correct(
    logits: Float[Array, "*B C"], labels: Int[Array, "*B"] | Float[Array, "*B C"]
) -> Bool[Array, "*B"]:
    """Whether the largest logit is the label's class (the heaviest class of a mixed label)."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.argmax(labels, axis=-1)
    return jnp.argmax(logits, axis=-1) == labels

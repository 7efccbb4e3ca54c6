"""Losses of the similarities of a batch's images and texts, own pairs on the diagonal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def row_contrast(
    logits: Float[Array, "B B"], mask: Bool[Array, " B"], targets: Float[Array, "B B"] | None = None
) -> Float[Array, " B"]:
    """The cross-entropy of each row's softmax.

    Args:
      logits: of row i and column j.
      mask: which examples count, as rows and as columns.
      targets: logits whose softmax along rows is the distribution that is aimed at; None aims at
        the diagonal.
    """
    # A row that does not count still has its own column, so that it is never empty.
    kept = mask[None] | jnp.eye(len(logits), dtype=bool)
    logs = jax.nn.log_softmax(jnp.where(kept, logits, -jnp.inf), axis=1)
    if targets is None:
        return -jnp.diagonal(logs)
    aims = jax.nn.softmax(jnp.where(kept, targets, -jnp.inf), axis=1)
    # Zero times the logarithm of nothing is nothing.
    return -jnp.sum(aims * jnp.where(kept, logs, 0), axis=1)


def softmax_contrast(
    logits: Float[Array, "B B"], mask: Bool[Array, " B"], targets: Float[Array, "B B"] | None = None
) -> Float[Array, " B"]:
    """The mean of `row_contrast` of each row and of its column, of images and of texts."""
    across = None if targets is None else targets.T
    return (row_contrast(logits, mask, targets) + row_contrast(logits.T, mask, across)) / 2


def sigmoid_contrast(logits: Float[Array, "B B"], mask: Bool[Array, " B"]) -> Float[Array, " B"]:
    """Each row's sum over the columns that count."""
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    return jnp.sum(jnp.where(mask[None], jax.nn.softplus(-signs * logits), 0), axis=1)


def margin_contrast(
    cosines: Float[Array, "B B"], mask: Bool[Array, " B"], margin: float
) -> Float[Array, " B"]:
    """By how much other pairs come nearer than a margin behind the own: the mean over them."""
    own = jnp.diagonal(cosines)[:, None]
    others = mask[None] & ~jnp.eye(len(cosines), dtype=bool)
    losses = jax.nn.relu(margin + cosines - own) + jax.nn.relu(margin + cosines.T - own)
    count = jnp.maximum(jnp.sum(others, axis=1), 1)
    return jnp.sum(jnp.where(others, losses, 0), axis=1) / (2 * count)

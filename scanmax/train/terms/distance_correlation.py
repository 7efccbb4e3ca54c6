"""Distance correlation: examples that are far apart for the teacher are so for the student."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.train.terms.relations import Relations, row_norms


class DistanceCorrelation(Relations):
    """1 - dCor(s, t), the same for all examples of the batch.

        dCor^2 = mean a b / sqrt(mean a^2 mean b^2)

    a and b are the distances of all pairs of examples, less the means of their row and column, plus
    that of all. It is 1 where one space is the other turned, scaled and moved, whatever the widths.

    Reference: mv-mr
    """

    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        return jnp.broadcast_to(1 - distance_correlation(own, told, kept), kept.shape)


def distance_correlation(
    x: Float[Array, "B D"], y: Float[Array, "B E"], kept: Bool[Array, "B"] | None = None
) -> Float[Array, ""]:
    """dCor of the rows that are kept; 0 where either has no two rows that differ.

    Args:
      x: one vector of each example.
      y: another, of any width.
      kept: which examples count; None is all.

    Reference: mv-mr
    """
    kept = jnp.ones(len(x), bool) if kept is None else kept
    a, b = (centred_distances(each, kept) for each in (x, y))
    shared, own, other = (jnp.sum(p * q) for p, q in ((a, b), (a, a), (b, b)))
    # The mean of a b is never below 0 but by rounding.
    square = shared / jnp.sqrt(jnp.where(own * other > 0, own * other, 1))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def centred_distances(x: Float[Array, "B D"], kept: Bool[Array, "B"]) -> Float[Array, "B B"]:
    """Distances of pairs, less the means of row and column, plus that of all; 0 for what is out."""
    x = jnp.where(kept[:, None], x, 0)
    pairs = kept[:, None] & kept[None]
    distances = jnp.where(pairs, row_norms(x[:, None] - x[None]), 0)
    rows = jnp.sum(distances, axis=1) / jnp.maximum(jnp.sum(kept), 1)
    mean = jnp.sum(rows) / jnp.maximum(jnp.sum(kept), 1)
    return jnp.where(pairs, distances - rows[:, None] - rows[None] + mean, 0)

"""Coding rates: how many nats a set of vectors takes, whole and in groups."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from scanmax import ops


def coding_rate(
    z: Float[Array, "B D"], mask: Bool[Array, " B"] | None = None, *, precision: float = 0.1
) -> Float[Array, ""]:
    """The rate R at which vectors are told up to a squared error: how much space they fill.

        R(Z) = 1/2 logdet(I + D / (n precision) sum_i z_i z_i^T)

    Of n vectors of length 1 it is at most D/2 log(1 + 1 / precision), where all directions hold as
    much.

    Args:
      z: vectors.
      mask: which count; None is all.
      precision: the squared error, `eps^2` of the paper.

    Raises:
      ValueError: a precision not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> same, apart = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.eye(2)
      >>> [round(float(coding_rate(z)), 3) for z in (same, apart)]
      [1.522, 2.398]

    Reference: cpp-rate-reduction-clustering
    """
    z, kept = _kept(z, mask, precision)
    scale = z.shape[-1] / (jnp.maximum(kept.sum(), 1) * precision)
    return _logdet(scale * jnp.matmul(z.T, z, precision="highest")) / 2


def compressed_rate(
    z: Float[Array, "B D"],
    membership: Float[Array, "B K"],
    mask: Bool[Array, " B"] | None = None,
    *,
    precision: float = 0.1,
) -> Float[Array, ""]:
    """The rate R_c of the same vectors told group by group, each vector in groups by shares.

        R_c(Z, P) = sum_j t_j / 2n logdet(I + D / (t_j precision) sum_i P_ij z_i z_i^T)
        t_j = sum_i P_ij

    R - R_c is what knowing the groups saves: most where each group is a subspace of its own, at a
    right angle to all others. It costs K determinants of D x D.

    Args:
      z: vectors.
      membership: P, not negative; of a matrix B x B, as the memberships of a batch are, each
        column is a group.
      mask: which vectors count; None is all.
      precision: the squared error.

    Raises:
      ValueError: a precision not above 0, or memberships of other rows.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> right, wrong = jnp.repeat(jnp.eye(2), 2, 0), jnp.tile(jnp.eye(2), (2, 1))
      >>> [round(float(coding_rate(z) - compressed_rate(z, p)), 3) for p in (right, wrong)]
      [0.876, 0.0]

    Reference: cpp-rate-reduction-clustering
    """
    if membership.ndim != 2 or len(membership) != len(z):
        raise ValueError(
            f"membership {list(membership.shape)} must be [B, K] beside z {list(z.shape)}"
        )
    z, kept = _kept(z, mask, precision)
    shares = jnp.where(kept[:, None], membership.astype(z.dtype), 0)
    totals, width = shares.sum(axis=0), z.shape[-1]
    outer = (z[:, :, None] * z[:, None]).reshape(len(z), width * width)
    found = jnp.matmul(shares.T, outer, precision="highest").reshape(-1, width, width)
    # A group of nobody has no rate.
    scale = width / (jnp.where(totals > 0, totals, 1) * precision)
    rates = totals * _logdet(scale[:, None, None] * found)
    return jnp.sum(rates) / (2 * jnp.maximum(kept.sum(), 1))


def sinkhorn_membership(
    c: Float[Array, "B D"],
    mask: Bool[Array, " B"] | None = None,
    *,
    entropy: float = 0.175,
    iterations: int = 2,
    unrolled: bool = False,
) -> Float[Array, "B B"]:
    """How much each vector belongs with each other: |c_i . c_j| made doubly stochastic.

        P = argmax sum_ij P_ij (|c_i . c_j| - entropy log P_ij)   with sums of 1

    By Sinkhorn's iterations and one more update of the rows, whose sums are exact. As in the
    released code, whose five updates are two iterations and that one, gradients flow through the
    last update alone.

    Args:
      c: vectors of length 1.
      mask: which count; the others belong nowhere.
      entropy: weight of the entropy.
      iterations: of columns and rows, before the last update of rows.
      unrolled: whether gradients flow through all of them, as the equation has it.

    Raises:
      ValueError: entropy or iterations not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> c = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> sinkhorn_membership(c, entropy=0.1)[0].round(3).tolist()
      [0.5, 0.5, 0.0, 0.0]

    Reference: cpp-rate-reduction-clustering
    """
    c, kept = _kept(c, mask, 1.0)
    alike = jnp.abs(jnp.matmul(c, c.T, precision="highest"))
    weights = kept / jnp.maximum(kept.sum(), 1).astype(c.dtype)
    given = alike if unrolled else jax.lax.stop_gradient(alike)
    plan = ops.sinkhorn(-given, weights, weights, epsilon=entropy, iterations=iterations)
    if not unrolled:
        # One in value; in the gradient the exponential that the last update normalises.
        plan = plan * jnp.exp((alike - given) / entropy)
    sums = plan.sum(axis=1, keepdims=True)
    return plan / jnp.where(sums > 0, sums, 1)


def coding_length(
    z: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], *, precision: float = 0.1
) -> float:
    """Nats that vectors take in groups, and which group each is of: the best grouping takes least.

        L = sum_j (n_j + D)/2 logdet(I + D / (n_j precision) Z_j^T Z_j) - n_j log(n_j / N)

    Args:
      z: vectors of length 1.
      labels: the group of each.
      precision: the squared error.

    Raises:
      ValueError: a precision not above 0.

    Example:
      >>> import numpy as np
      >>> z = np.repeat(np.eye(2), 20, axis=0)
      >>> [round(coding_length(z, np.arange(40) // size)) for size in (40, 20, 5)]
      [101, 95, 168]

    Reference: cpp-rate-reduction-clustering
    """
    if not precision > 0:
        raise ValueError(f"precision={precision} must be above 0")
    z, total = np.asarray(z, np.float64), 0.0
    width = z.shape[1]
    for group in np.unique(labels):
        own = z[labels == group]
        scatter = np.eye(width) + width / (len(own) * precision) * own.T @ own
        total += (len(own) + width) / 2 * np.linalg.slogdet(scatter)[1]
        total -= len(own) * np.log(len(own) / len(z))
    return float(total)


def _kept(z, mask, precision):
    """The vectors in float32 or wider, zero where they do not count, and which do."""
    if not precision > 0:
        raise ValueError(f"precision={precision} must be above 0")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    kept = jnp.ones(len(z), bool) if mask is None else jnp.asarray(mask)
    return jnp.where(kept[:, None], z, 0), kept


def _logdet(scatter):
    """logdet(I + S) of positive semidefinite S."""
    root = jnp.linalg.cholesky(jnp.eye(scatter.shape[-1], dtype=scatter.dtype) + scatter)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)

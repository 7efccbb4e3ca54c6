"""Clusters of what belongs together, how many there are, and how right they are."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from scanmax.train.losses.rate_reduction import coding_length


def spectral_embedding(
    membership: Float[np.ndarray, "N N"], size: int
) -> Float[np.ndarray, "N {size}"]:
    """Directions of the normalised Laplacian's lowest eigenvectors, by which k-means clusters.

    Args:
      membership: how much each belongs with each other, not negative; its symmetric part counts.
      size: how many eigenvectors, lowest first.
    """
    # Imported here: what trains need not wait for them.
    import scipy.linalg
    import scipy.sparse.csgraph

    even = np.asarray(membership, np.float64)
    laplacian = scipy.sparse.csgraph.laplacian((even + even.T) / 2, normed=True)
    return scipy.linalg.eigh(laplacian, subset_by_index=(0, size - 1))[1]


def spectral_labels(
    membership: Float[np.ndarray, "N N"], clusters: int, seed: int = 0
) -> Int[np.ndarray, " N"]:
    """The cluster of each, by k-means of the rows of `spectral_embedding`, made of length 1.

    Args:
      membership: how much each belongs with each other.
      clusters: how many.
      seed: of k-means, which begins ten times.

    Raises:
      ValueError: more clusters than members, or none.

    Example:
      >>> import numpy as np
      >>> found = spectral_labels(np.kron(np.eye(2), np.ones((3, 3))), 2)
      >>> bool((found[:3] == found[0]).all() and (found[3:] == 1 - found[0]).all())
      True

    Reference: cpp-rate-reduction-clustering
    """
    if not 1 <= clusters <= len(membership):
        raise ValueError(f"clusters={clusters} must be 1 to {len(membership)}")
    return _labels(spectral_embedding(membership, clusters), clusters, seed)


def cluster_count(
    membership: Float[np.ndarray, "N N"],
    z: Float[np.ndarray, "N D"],
    candidates: Iterable[int],
    *,
    precision: float = 0.1,
    seed: int = 0,
) -> tuple[int, dict[int, float]]:
    """The number of clusters whose grouping has the least `coding_length`, and all lengths.

    Args:
      membership: what is clustered.
      z: what is told in groups.
      candidates: numbers to choose from.
      precision: the squared error.
      seed: of k-means.

    Raises:
      ValueError: no candidates, or one that no clustering has.

    Reference: cpp-rate-reduction-clustering
    """
    candidates = sorted(set(candidates))
    if not candidates or not 1 <= candidates[0] <= candidates[-1] <= len(membership):
        raise ValueError(f"candidates={candidates} must be numbers from 1 to {len(membership)}")
    embedding = spectral_embedding(membership, candidates[-1])
    lengths = {
        count: coding_length(z, _labels(embedding, count, seed), precision=precision)
        for count in candidates
    }
    return min(lengths, key=lengths.get), lengths


def clustering_accuracy(found: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """The share that is right where each cluster has the class that fits best, one to one.

    Args:
      found: clusters.
      labels: classes.

    Example:
      >>> import numpy as np
      >>> clustering_accuracy(np.array([2, 2, 0, 0]), np.array([0, 0, 1, 0]))
      0.75
    """
    from scipy.optimize import linear_sum_assignment

    size = max(found.max(), labels.max()) + 1
    together = np.zeros((size, size), np.int64)
    np.add.at(together, (found, labels), 1)
    return float(together[linear_sum_assignment(-together)].sum() / len(labels))


def _labels(embedding, clusters, seed):
    from sklearn.cluster import KMeans

    rows = embedding[:, :clusters]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(rows)

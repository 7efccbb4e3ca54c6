"""A held-out part for data that come without one."""

import hashlib
from collections.abc import Iterable

import numpy as np


def name_keys(names: Iterable[bytes], seed: int) -> np.ndarray:
    """[N] a number for each name, which only the name and the seed decide."""
    seeded = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)
    digests = []
    for name in names:
        hashed = seeded.copy()
        hashed.update(name)
        digests.append(hashed.digest())
    return np.frombuffer(b"".join(digests), np.uint64)


def stratified(labels: np.ndarray, keys: np.ndarray, share: float) -> np.ndarray:
    """Holds out a share of each class, those whose keys are smallest.

    A class of two or more has an example on either side, one of a single example trains.

    Args:
      labels: [N] class of each example.
      keys: [N] numbers that decide, such as hashes of what names an example.
      share: of each class, in (0, 1).

    Returns:
      [N] bool, True where the example is held out.

    >>> stratified(np.array([0, 0, 0, 0, 1]), np.array([3, 1, 2, 4, 0]), 0.25).tolist()
    [False, True, False, False, False]
    """
    counts = np.bincount(labels)
    wanted = np.clip(np.round(share * counts), 1, np.maximum(counts - 1, 0)).astype(np.int64)
    order = np.lexsort((keys, labels))
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank < wanted[labels]

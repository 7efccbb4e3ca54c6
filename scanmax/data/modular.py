"""Modular arithmetic: every pair of residues and its result, cut at random in two parts.

The task of the grokking papers: small enough for full-batch training, and a held-out part that is
answered only by the rule.
"""

from typing import NamedTuple

import numpy as np

from scanmax.errors import suggest

OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
}


class ModularPairs(NamedTuple):
    """Pairs [N, 2] and their results [N], int32."""

    pairs: np.ndarray
    results: np.ndarray


def modular_arithmetic(
    modulus: int, *, operation: str = "add", train_fraction: float = 0.4, seed: int = 0
) -> tuple[ModularPairs, ModularPairs]:
    """The table of a o b mod p, cut into a training and a held-out part.

    Args:
      modulus: p; the table has p^2 entries.
      operation: "add", "subtract" or "multiply".
      train_fraction: share of the table in the training part.
      seed: of the cut.

    Returns:
      (training part, held-out part).

    Raises:
      ValueError: a modulus below 2, an unknown operation, or a part without entries.

    >>> train, held_out = modular_arithmetic(5, train_fraction=0.6)
    >>> len(train.results), len(held_out.results)
    (15, 10)

    Reference: stablemax-perpgrad
    """
    if modulus < 2:
        raise ValueError(f"modulus={modulus}; expected at least 2.")
    if operation not in OPERATIONS:
        raise ValueError(f"operation={operation!r}; {suggest(operation, OPERATIONS)}")
    a, b = np.divmod(np.arange(modulus**2, dtype=np.int64), modulus)
    results = OPERATIONS[operation](a, b) % modulus
    pairs = np.stack([a, b], -1)
    order = np.random.default_rng(seed).permutation(modulus**2)
    size = int(train_fraction * modulus**2)
    if not 0 < size < modulus**2:
        raise ValueError(f"train_fraction={train_fraction} leaves a part without entries.")
    parts = (order[:size], order[size:])
    return tuple(
        ModularPairs(pairs[part].astype(np.int32), results[part].astype(np.int32)) for part in parts
    )

"""An interpolated n-gram model of bytes: what a language model has to beat.

With c(h, b) the times that byte b followed the context h, n(h) their sum and u(h) the number of
different bytes that followed, Witten and Bell's interpolation is

    P(b | h) = (c(h, b) + s u(h) P(b | h')) / (n(h) + s u(h))

where h' is h without its oldest byte, and below the empty context every byte has 1/256. The
strength s (1 in the original) is fitted per order on the last tenth of the training part.
"""

import dataclasses

import numpy as np

SIZE = 256
STRENGTHS = tuple(float(value) for value in np.geomspace(0.1, 10, 13))


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of one context length: sorted keys of (context, byte) and of contexts."""

    pairs: np.ndarray
    pair_counts: np.ndarray
    contexts: np.ndarray
    context_counts: np.ndarray
    followers: np.ndarray


@dataclasses.dataclass(frozen=True)
class ByteModel:
    """Counts and strengths by context length, from 0 to the order."""

    counts: tuple[Counts, ...]
    strengths: tuple[float, ...]

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """P of every byte but the first, given those before it, up to the order.

        Args:
          tokens: [L] bytes.

        Returns:
          [L - 1] float64.
        """
        result = np.full(len(tokens), 1 / SIZE)
        for length, (counts, strength) in enumerate(zip(self.counts, self.strengths)):
            keys = pair_keys(tokens, length)
            seen = lookup(counts.pairs, counts.pair_counts, keys)
            total = lookup(counts.contexts, counts.context_counts, keys // SIZE)
            weight = strength * lookup(counts.contexts, counts.followers, keys // SIZE)
            shorter = result[length:]
            known = total > 0
            blend = (seen + weight * shorter) / np.where(known, total + weight, 1)
            # Near the start of the text the context is shorter, and so is the model.
            result[length:] = np.where(known, blend, shorter)
        return result[1:]

    def bits_per_byte(self, tokens: np.ndarray) -> float:
        """The mean of -log2 P over every byte but the first."""
        return float(-np.log2(self.probabilities(tokens)).mean())


def fit(tokens: np.ndarray, *, order: int = 3) -> ByteModel:
    """Counts the contexts of up to `order` bytes and chooses the strengths.

    Args:
      tokens: [L] bytes to fit.
      order: longest context.

    Returns:
      The model, counted on all of `tokens`.
    """
    cut = len(tokens) - len(tokens) // 10
    counts = tuple(count(tokens[:cut], length) for length in range(order + 1))
    strengths: tuple[float, ...] = ()
    for length in range(order + 1):
        options = [
            ByteModel(counts[: length + 1], (*strengths, strength)) for strength in STRENGTHS
        ]
        best = min(options, key=lambda model: model.bits_per_byte(tokens[cut:]))
        strengths = best.strengths
    return ByteModel(tuple(count(tokens, length) for length in range(order + 1)), strengths)


def count(tokens: np.ndarray, length: int) -> Counts:
    """Counts every byte after every context of `length` bytes."""
    pairs, pair_counts = np.unique(pair_keys(tokens, length), return_counts=True)
    contexts, first, followers = np.unique(pairs // SIZE, return_index=True, return_counts=True)
    return Counts(pairs, pair_counts, contexts, np.add.reduceat(pair_counts, first), followers)


def pair_keys(tokens: np.ndarray, length: int) -> np.ndarray:
    """[L - length] numbers whose digits to the base 256 are the context and the byte."""
    tokens = np.asarray(tokens, np.int64)
    keys = np.zeros(len(tokens) - length, np.int64)
    for place in range(length + 1):
        keys = keys * SIZE + tokens[place : place + len(keys)]
    return keys


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of the wanted keys, 0 where a key is missing."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)

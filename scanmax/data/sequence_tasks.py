"""Small tasks on sequences, drawn from a numpy generator: what claims about attention train on."""

import numpy as np


def match3(
    rng: np.random.Generator, batch_size: int, length: int, modulus: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and for each whether two of the sequence complete it to 0 modulo `modulus`.

    Args:
      rng: draws the numbers uniformly.
      batch_size: how many sequences.
      length: numbers per sequence.
      modulus: they lie in 0 .. modulus - 1.

    Returns:
      (numbers int32 [batch, length], labels bool [batch, length]); label i says that there are j
      and k, not necessarily different from i or each other, with x_i + x_j + x_k = 0 mod modulus.

    Example:
      >>> numbers, labels = match3(np.random.default_rng(0), 1, 4, 10)
      >>> numbers[0].tolist(), labels[0].tolist()
      ([8, 6, 5, 2], [True, True, False, True])
    """
    numbers = rng.integers(0, modulus, (batch_size, length), dtype=np.int32)
    present = np.zeros((batch_size, modulus), bool)
    np.put_along_axis(present, numbers, True, 1)
    # which remainders two numbers of the sequence sum to
    pairs = (numbers[:, :, None] + numbers[:, None, :]).reshape(batch_size, -1) % modulus
    sums = np.zeros((batch_size, modulus), bool)
    np.put_along_axis(sums, pairs, True, 1)
    return numbers, np.take_along_axis(sums, (-numbers) % modulus, 1)


def linear_regression(
    rng: np.random.Generator, batch_size: int, length: int, dim: int, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of in-context linear regression: y = x . beta + noise, a beta per prompt.

    Covariates are N(0, I), beta is N(0, I / dim), so that x . beta has variance one.

    Args:
      rng: draws covariates, coefficients and noise.
      batch_size: how many prompts.
      length: examples per prompt, before the query.
      dim: of the covariates.
      noise: variance of what is added to each response, the query's too.

    Returns:
      (x float32 [batch, length + 1, dim], y float32 [batch, length + 1]); the last is the query.
    """
    x = rng.standard_normal((batch_size, length + 1, dim), np.float32)
    beta = rng.standard_normal((batch_size, dim), np.float32) / np.float32(np.sqrt(dim))
    errors = rng.standard_normal((batch_size, length + 1), np.float32)
    return x, np.einsum("bld,bd->bl", x, beta) + np.float32(np.sqrt(noise)) * errors


def associative_recall(
    rng: np.random.Generator,
    batch_size: int,
    length: int,
    pairs: int,
    vocab_size: int = 8192,
    power: float = 0.01,
) -> tuple[np.ndarray, np.ndarray]:
    """Multi-query associative recall (MQAR): keys and their values, then the keys again.

    A sequence opens with `pairs` keys, each followed by its value; later each key comes once more,
    and there its value is to be named. Behind the pairs every second place n = 1, 2, ... may ask,
    drawn by weights n^(power - 1), as published. All other places hold random tokens.

    Args:
      rng: draws keys, values, places and the tokens between.
      batch_size: how many sequences.
      length: tokens of a sequence, even.
      pairs: keys, at most a quarter of the length.
      vocab_size: keys are tokens 1 .. vocab / 2 - 1, values those from vocab / 2 on.
      power: smaller draws queries closer to the pairs.

    Returns:
      (tokens int32 [batch, length], targets int32 [batch, length]): the value to name at each
      query, -1 elsewhere.

    Raises:
      ValueError: an odd length, more pairs than fit, or fewer tokens than pairs.

    Example:
      >>> tokens, targets = associative_recall(np.random.default_rng(0), 1, 8, 2, vocab_size=8)
      >>> tokens[0].tolist(), targets[0].tolist()
      ([3, 4, 2, 7, 3, 0, 2, 6], [-1, -1, -1, -1, 4, -1, 7, -1])

    Reference: zoology-mqar
    """
    if length % 2 or 4 * pairs > length:
        raise ValueError(f"length={length} must be even and hold 4 * {pairs} tokens.")
    half = vocab_size // 2
    if pairs > half - 1:
        raise ValueError(f"vocab_size={vocab_size} has fewer than {pairs} keys.")
    keys = 1 + _distinct(rng, batch_size, half - 1, pairs)
    values = half + _distinct(rng, batch_size, vocab_size - half, pairs)
    places = (length - 2 * pairs) // 2
    gaps = _distinct(rng, batch_size, places, pairs, (1.0 + np.arange(places)) ** (power - 1))
    tokens = rng.integers(0, vocab_size, (batch_size, length), dtype=np.int32)
    tokens[:, : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    targets = np.full((batch_size, length), -1, np.int32)
    queries = 2 * pairs + 2 * gaps
    np.put_along_axis(tokens, queries, keys, 1)
    np.put_along_axis(targets, queries, values, 1)
    return tokens, targets


def selective_copying(
    rng: np.random.Generator, batch_size: int, length: int, items: int, vocab_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Items at random places among blanks, then as many markers: name the items in their order.

    Args:
      rng: draws places and items.
      batch_size: how many sequences.
      length: tokens before the markers.
      items: how many of them are no blanks.
      vocab_size: 0 is a blank, 1 the marker, the others are items.

    Returns:
      (tokens int32 [batch, length + items], targets of the same shape, -1 before the markers).

    Raises:
      ValueError: more items than tokens.

    Example:
      >>> tokens, targets = selective_copying(np.random.default_rng(0), 1, 5, 2)
      >>> tokens[0].tolist(), targets[0].tolist()
      ([0, 0, 11, 14, 0, 1, 1], [-1, -1, -1, -1, -1, 11, 14])

    Reference: hidden-mamba-attention
    """
    if items > length:
        raise ValueError(f"items={items} do not fit into length={length}.")
    places = np.sort(_distinct(rng, batch_size, length, items), 1)
    drawn = rng.integers(2, vocab_size, (batch_size, items), dtype=np.int32)
    tokens = np.zeros((batch_size, length + items), np.int32)
    np.put_along_axis(tokens, places, drawn, 1)
    tokens[:, length:] = 1
    targets = np.full_like(tokens, -1)
    targets[:, length:] = drawn
    return tokens, targets


def induction_heads(
    rng: np.random.Generator, batch_size: int, length: int, vocab_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, a special one among them and at the end: name what followed it before.

    Args:
      rng: draws the tokens and the place.
      batch_size: how many sequences.
      length: tokens of a sequence, the last special one included.
      vocab_size: 0 is the special token, the others are drawn.

    Returns:
      (tokens int32 [batch, length], targets int32 [batch, length], -1 but at the last).

    Raises:
      ValueError: a length below 3.

    Example:
      >>> tokens, targets = induction_heads(np.random.default_rng(0), 1, 6)
      >>> tokens[0].tolist(), targets[0].tolist()
      ([0, 10, 8, 5, 5, 0], [-1, -1, -1, -1, -1, 10])

    Reference: zoology-mqar
    """
    if length < 3:
        raise ValueError(f"length={length}; expected at least 3.")
    tokens = rng.integers(1, vocab_size, (batch_size, length), dtype=np.int32)
    place = rng.integers(0, length - 2, (batch_size, 1))
    np.put_along_axis(tokens, place, 0, 1)
    tokens[:, -1] = 0
    targets = np.full_like(tokens, -1)
    targets[:, -1:] = np.take_along_axis(tokens, place + 1, 1)
    return tokens, targets


def copy_memory(
    rng: np.random.Generator, batch_size: int, length: int, items: int = 10, vocab_size: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Items, then blanks, then as many markers as items: name the items in their order.

    Args:
      rng: draws the items.
      batch_size: how many sequences.
      length: blanks between the items and the markers.
      items: how many are to be kept.
      vocab_size: 0 is a blank, 1 the marker, the others are items.

    Returns:
      (tokens int32 [batch, items + length + items], targets of the same shape, -1 before the
      markers).

    Example:
      >>> tokens, targets = copy_memory(np.random.default_rng(0), 1, 3, 2)
      >>> tokens[0].tolist(), targets[0].tolist()
      ([8, 7, 0, 0, 0, 1, 1], [-1, -1, -1, -1, -1, 8, 7])

    Reference: ckconv
    """
    drawn = rng.integers(2, vocab_size, (batch_size, items), dtype=np.int32)
    tokens = np.zeros((batch_size, length + 2 * items), np.int32)
    tokens[:, :items], tokens[:, items + length :] = drawn, 1
    targets = np.full_like(tokens, -1)
    targets[:, items + length :] = drawn
    return tokens, targets


def reversal(
    rng: np.random.Generator, batch_size: int, length: int, vocab_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Words, then a start token and the same words from the last to the first, to be written.

    Args:
      rng: draws the words.
      batch_size: how many rows.
      length: words, at least 2.
      vocab_size: 0 is padding, which no row has, 1 the start token, the others are words.

    Returns:
      (tokens int32 [batch, 2 * length], targets of the same shape, -1 before the start token).

    Raises:
      ValueError: a length below 2.

    Example:
      >>> tokens, targets = reversal(np.random.default_rng(0), 1, 3)
      >>> tokens[0].tolist(), targets[0].tolist()
      ([13, 10, 9, 1, 9, 10], [-1, -1, -1, 9, 10, 13])
    """
    if length < 2:
        raise ValueError(f"length={length}; expected at least 2 words to turn round.")
    words = rng.integers(2, vocab_size, (batch_size, length), dtype=np.int32)
    answer = words[:, ::-1]
    start = np.ones_like(words[:, :1])
    tokens = np.concatenate([words, start, answer[:, :-1]], axis=1)
    return tokens, np.concatenate([np.full_like(words, -1), answer], axis=1)


def reconstruction(
    rng: np.random.Generator, batch_size: int, length: int, vocab_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Words, and the same words to be told again, of strings from half the length on.

    Args:
      rng: draws the words and the length of each string.
      batch_size: how many rows.
      length: words of the longest string; shorter ones, down to half of it, end in padding.
      vocab_size: 0 is padding, the others are words.

    Returns:
      (tokens int32 [batch, length], targets of the same shape, -1 at padding).

    Raises:
      ValueError: a length below 2, or a vocabulary without words.

    Example:
      >>> tokens, targets = reconstruction(np.random.default_rng(0), 2, 4)
      >>> tokens.tolist(), targets.tolist()
      ([[13, 10, 0, 0], [5, 1, 2, 1]], [[13, 10, -1, -1], [5, 1, 2, 1]])

    Reference: byte-recursive-conv-ae
    """
    if length < 2 or vocab_size < 2:
        raise ValueError(f"length={length}, vocab_size={vocab_size}; expected at least 2 of each.")
    tokens = rng.integers(1, vocab_size, (batch_size, length), dtype=np.int32)
    lengths = rng.integers(length // 2, length + 1, (batch_size, 1))
    is_word = np.arange(length)[None] < lengths
    return np.where(is_word, tokens, 0), np.where(is_word, tokens, -1)


def adding(rng: np.random.Generator, batch_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of which two are marked, one in each half: give their sum.

    Args:
      rng: draws the numbers, uniform in 0 .. 1, and the places.
      batch_size: how many sequences.
      length: numbers per sequence.

    Returns:
      (float32 [batch, length, 2], numbers and marks; sums float32 [batch]). To say 1 always has a
      mean squared error of 1/6.

    Raises:
      ValueError: a length below 2.

    Example:
      >>> series, sums = adding(np.random.default_rng(0), 1, 4)
      >>> series[0, :, 1].tolist(), bool(np.isclose(series[0, :, 0] @ series[0, :, 1], sums[0]))
      ([1.0, 0.0, 1.0, 0.0], True)

    Reference: ckconv
    """
    if length < 2:
        raise ValueError(f"length={length}; expected at least 2.")
    half = length // 2
    series = np.zeros((batch_size, length, 2), np.float32)
    series[..., 0] = rng.random((batch_size, length), np.float32)
    rows = np.arange(batch_size)
    for low, high in ((0, half), (half, length)):
        series[rows, rng.integers(low, high, batch_size), 1] = 1
    return series, (series[..., 0] * series[..., 1]).sum(-1)


def word_order(
    rng: np.random.Generator, batch_size: int, length: int, span: int = 0, vocab_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of words with one A and one B among them: say whether A comes first.

    Both stand in the middle half of the sentence, so that its ends say nothing of them; nor do its
    words without their order, nor short phrases unless A and B are near each other.

    Args:
      rng: draws the words, the two places and the length of each sentence.
      batch_size: how many sentences.
      length: words of the longest sentence, at least 8; shorter ones, down to half of it, end in
        padding.
      span: A and B are less than this apart; 0 leaves them anywhere.
      vocab_size: 0 is padding, 1 is A, 2 is B, the others are drawn.

    Returns:
      (tokens int32 [batch, length], labels int32 [batch], 1 where A is first).

    Raises:
      ValueError: a length below 8, a span of 1, or a vocabulary without other words.

    Example:
      >>> tokens, labels = word_order(np.random.default_rng(0), 2, 8, vocab_size=5)
      >>> tokens.tolist(), labels.tolist()
      ([[4, 4, 4, 1, 3, 2, 3, 0], [3, 1, 4, 4, 2, 4, 0, 0]], [1, 1])

    Reference: dcnn-dynamic-kmax
    """
    if length < 8 or span == 1 or vocab_size < 4:
        raise ValueError(
            f"length={length}, span={span}, vocab_size={vocab_size}; expected a length of at least "
            "8, a span of 0 or at least 2, and at least 4 words."
        )
    tokens = rng.integers(3, vocab_size, (batch_size, length), dtype=np.int32)
    lengths = rng.integers(length // 2, length + 1, batch_size)
    labels = rng.integers(0, 2, batch_size, dtype=np.int32)
    for row, words, label in zip(tokens, lengths, labels):
        low, high = words // 4, words - words // 4
        gap = rng.integers(1, min(span or high - low, high - low))
        first = rng.integers(low, high - gap)
        row[[first, first + gap]] = (1, 2) if label else (2, 1)
        row[words:] = 0
    return tokens, labels


def _distinct(rng, batch_size, size, count, weights=None):
    """Different numbers below `size` per row, in random order, drawn by weight: [batch, count]."""
    scores = rng.gumbel(size=(batch_size, size)).astype(np.float32)
    if weights is not None:
        scores += np.log(weights).astype(np.float32)
    return np.argsort(-scores, 1)[:, :count].astype(np.int32)

"""The n-gram baseline is a probability model, and fits what it should."""

import numpy as np

from scanmax.data import corpus, ngram


def test_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    model = ngram.fit(rng.integers(97, 103, 2000).astype(np.uint8), order=3)
    for context in (b"aba", b"\x00zz", b"fed"):
        rows = np.array([[*context, byte] for byte in range(256)], np.uint8)
        total = sum(model.probabilities(row)[-1] for row in rows)
        np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_counts_by_hand():
    # "abab": after a always b (2 times), after b once a; u(a) = u(b) = 1.
    counts = tuple(ngram.count(np.frombuffer(b"abab", np.uint8), length) for length in (0, 1))
    model = ngram.ByteModel(counts, (1.0, 1.0))
    unigram_b = (2 + 2 / 256) / (4 + 2)
    np.testing.assert_allclose(
        model.probabilities(np.frombuffer(b"ab", np.uint8)), [(2 + unigram_b) / 3], rtol=1e-12
    )
    unseen = (0 + 2 / 256) / 6
    np.testing.assert_allclose(
        model.probabilities(np.frombuffer(b"ac", np.uint8)), [(0 + unseen) / 3], rtol=1e-12
    )


def test_uniform_bytes_cost_eight_bits():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 256, 20000).astype(np.uint8)
    model = ngram.fit(tokens[:15000], order=2)
    assert 7.95 < model.bits_per_byte(tokens[15000:]) < 8.3


def test_longer_contexts_help_on_text():
    train, held_out = corpus.read_parts()
    bits = [ngram.fit(train[:60000], order=order).bits_per_byte(held_out) for order in (1, 2, 3)]
    assert bits[0] > bits[1] > bits[2] > 1.5

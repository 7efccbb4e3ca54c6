"""The small tasks: labels by brute force, targets by least squares."""

import doctest
import itertools

import numpy as np
import pytest

from scanmax.data import sequence_tasks
from scanmax.data.sequence_tasks import (
    associative_recall,
    induction_heads,
    linear_regression,
    match3,
    selective_copying,
)


def test_match3_is_what_all_triples_say():
    numbers, labels = match3(np.random.default_rng(1), 20, 6, 19)
    assert 0.2 < labels.mean() < 0.95
    for row, found in zip(numbers, labels):
        expected = [any((x + a + b) % 19 == 0 for a, b in itertools.product(row, row)) for x in row]
        np.testing.assert_array_equal(found, expected)
    assert doctest.testmod(sequence_tasks).failed == 0


def test_regression_prompts_are_linear_with_the_noise_they_say():
    x, y = linear_regression(np.random.default_rng(2), 500, 30, 3, noise=0.0)
    assert x.shape == (500, 31, 3)
    assert y.dtype == np.float32
    for examples, targets in zip(x[:5], y[:5]):
        beta = np.linalg.lstsq(examples[:-1], targets[:-1], rcond=None)[0]
        np.testing.assert_allclose(examples[-1] @ beta, targets[-1], atol=1e-5)
    assert abs(np.var(y) - 1) < 0.1
    _, noisy = linear_regression(np.random.default_rng(2), 500, 30, 3, noise=0.5)
    assert abs(np.var(noisy - y) - 0.5) < 0.05


def test_recalled_values_are_those_after_the_keys():
    tokens, targets = associative_recall(np.random.default_rng(0), 50, 64, 8, vocab_size=100)
    assert tokens.shape == targets.shape == (50, 64)
    assert ((targets >= 0).sum(1) == 8).all()
    for row, target in zip(tokens, targets):
        bound = dict(zip(row[:16:2], row[1:16:2]))
        assert len(bound) == 8, "keys are different"
        asked = np.flatnonzero(target >= 0)
        assert (asked >= 16).all()
        assert {row[t] for t in asked} == set(bound), "every key is asked for once"
        assert all(bound[row[t]] == target[t] for t in asked)
        assert all(0 < key < 50 <= value for key, value in bound.items())
    # near places are likelier
    first, last = (targets[:, part] >= 0 for part in (slice(16, 32), slice(48, 64)))
    assert first.sum() > 2 * last.sum()
    with pytest.raises(ValueError, match="must be even"):
        associative_recall(np.random.default_rng(0), 1, 30, 8)
    with pytest.raises(ValueError, match="fewer than 4 keys"):
        associative_recall(np.random.default_rng(0), 1, 32, 4, vocab_size=8)


def test_copied_items_are_those_between_the_blanks():
    tokens, targets = selective_copying(np.random.default_rng(0), 20, 30, 5)
    for row, target in zip(tokens, targets):
        assert row[:30][row[:30] > 1].tolist() == target[30:].tolist()
        assert (row[30:] == 1).all()
        assert (target[:30] == -1).all()
    with pytest.raises(ValueError, match="do not fit"):
        selective_copying(np.random.default_rng(0), 1, 3, 4)


def test_the_last_token_asks_for_what_followed_it():
    tokens, targets = induction_heads(np.random.default_rng(0), 40, 12)
    assert ((tokens == 0).sum(1) == 2).all()
    assert (targets[:, :-1] == -1).all()
    for row, target in zip(tokens, targets):
        assert row[np.flatnonzero(row == 0)[0] + 1] == target[-1]
    with pytest.raises(ValueError, match="at least 3"):
        induction_heads(np.random.default_rng(0), 1, 2)

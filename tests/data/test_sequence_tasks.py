"""The small tasks: labels by brute force, targets by least squares."""

import doctest
import itertools

import numpy as np

from scanmax.data import sequence_tasks
from scanmax.data.sequence_tasks import linear_regression, match3


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

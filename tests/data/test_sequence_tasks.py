"""The small tasks: labels by brute force, targets by least squares."""

import doctest
import itertools

import numpy as np
import pytest

from scanmax.data import DataConfig, load, sequence_tasks, task_source
from scanmax.data.sequence_tasks import (
    adding,
    associative_recall,
    copy_memory,
    induction_heads,
    linear_regression,
    match3,
    reconstruction,
    reversal,
    selective_copying,
)
from scanmax.errors import UserError


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


def test_copied_items_are_those_before_the_pause():
    tokens, targets = copy_memory(np.random.default_rng(0), 20, 7, 4, 6)
    assert tokens.shape == targets.shape == (20, 15)
    np.testing.assert_array_equal(targets[:, -4:], tokens[:, :4])
    assert (targets[:, :-4] == -1).all()
    assert (tokens[:, 4:11] == 0).all()
    assert (tokens[:, 11:] == 1).all()
    assert set(np.unique(tokens[:, :4])) == {2, 3, 4, 5}


def test_reversed_words_are_asked_for_behind_the_start_token():
    tokens, targets = reversal(np.random.default_rng(0), 20, 5, 7)
    assert tokens.shape == targets.shape == (20, 10)
    assert (targets[:, :5] == -1).all()
    np.testing.assert_array_equal(targets[:, 5:], tokens[:, 4::-1])
    assert (tokens[:, 5] == 1).all()
    np.testing.assert_array_equal(tokens[:, 6:], targets[:, 5:-1])
    assert set(np.unique(tokens[:, :5])) == {2, 3, 4, 5, 6}


def test_strings_are_to_be_told_again_but_for_their_padding():
    tokens, targets = reconstruction(np.random.default_rng(0), 50, 6, 5)
    assert tokens.shape == targets.shape == (50, 6)
    np.testing.assert_array_equal(np.where(tokens > 0, tokens, -1), targets)
    assert set((tokens > 0).sum(1)) == {3, 4, 5, 6}
    assert (np.diff(tokens > 0, axis=1).sum(1) <= 1).all(), "padding is at the end"
    with pytest.raises(ValueError, match="at least 2 of each"):
        reconstruction(np.random.default_rng(0), 1, 1)


def test_sums_are_those_of_a_marked_number_in_each_half():
    series, sums = adding(np.random.default_rng(0), 2000, 9)
    assert series.shape == (2000, 9, 2)
    for half in (series[:, :4], series[:, 4:]):
        np.testing.assert_array_equal(half[..., 1].sum(1), 1)
        assert (half[..., 1].sum(0) > 0).all(), "every place is marked at times"
    np.testing.assert_allclose((series[..., 0] * series[..., 1]).sum(1), sums)
    assert abs(np.mean((sums - 1) ** 2) - 1 / 6) < 0.01
    with pytest.raises(ValueError, match="length=1"):
        adding(np.random.default_rng(0), 1, 1)


@pytest.mark.parametrize("name", sorted(task_source.TASKS))
def test_a_run_reads_tasks_whose_examples_depend_on_their_number_alone(name):
    config = DataConfig(name=name, sequence_length=32, kwargs={"examples": 8, "eval_examples": 3})
    pipeline = load(config, seed=0, batch_size=4)
    batch = next(pipeline.train_iterator())
    again = next(load(config, seed=0, batch_size=4).train_iterator())
    for key, spec in pipeline.train_spec.items():
        assert (batch[key].shape, batch[key].dtype) == (spec.shape, spec.dtype)
        np.testing.assert_array_equal(batch[key], again[key])
    (held,) = pipeline.eval_batches()
    assert held["mask"].sum() == 3
    first = next(iter(pipeline.train_spec))
    assert not any((row == held[first][0]).all() for row in batch[first])
    for wrong, message in (
        ({"lenght": 3}, "config.data.kwargs.lenght"),
        ({"examples": 0}, "must be a positive integer"),
    ):
        with pytest.raises(UserError, match=message):
            load(DataConfig(name=name, kwargs=wrong), seed=0, batch_size=4)
    if name == "copy_memory":
        return
    with pytest.raises(UserError, match=f"config.data of '{name}'"):
        load(DataConfig(name=name, sequence_length=1), seed=0, batch_size=4)

"""Losses against their formulas, metrics against plain averages over what is not padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.train import losses, metrics
from scanmax.train.config import ObjectiveConfig

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 6)
TEACHER = RNG.normal(size=(6, 5)).astype(np.float32)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_softmax_cross_entropy():
    probability = softmax(LOGITS)
    expected = -np.log(probability[np.arange(6), LABELS])
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)
    one_hot = np.eye(5, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, one_hot), expected, rtol=1e-6)
    targets = 0.9 * one_hot + 0.1 / 5
    smooth = -(targets * np.log(probability)).sum(-1)
    for labels in (LABELS, one_hot):
        found = losses.softmax_cross_entropy(LOGITS, labels, label_smoothing=0.1)
        np.testing.assert_allclose(found, smooth, rtol=1e-5)
    assert losses.softmax_cross_entropy(LOGITS.astype(jnp.bfloat16), LABELS).dtype == jnp.float32


def test_stablemax_cross_entropy():
    score = np.where(LOGITS >= 0, LOGITS + 1, 1 / (1 - np.minimum(LOGITS, 0)))
    probability = score / score.sum(-1, keepdims=True)
    expected = -np.log(probability[np.arange(6), LABELS])
    found = losses.stablemax_cross_entropy(jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_distillation():
    hard = losses.hard_distillation(LOGITS, TEACHER)
    np.testing.assert_allclose(hard, losses.softmax_cross_entropy(LOGITS, TEACHER.argmax(-1)))
    teacher, student = softmax(TEACHER / 2), softmax(LOGITS / 2)
    expected = 4 * (teacher * np.log(teacher / student)).sum(-1)
    soft = losses.soft_distillation(LOGITS, TEACHER, temperature=2.0)
    np.testing.assert_allclose(soft, expected, rtol=1e-5)
    np.testing.assert_allclose(losses.soft_distillation(TEACHER, TEACHER), 0, atol=1e-6)


def test_unknown_loss():
    with pytest.raises(UserError, match="did you mean 'softmax_cross_entropy'"):
        losses.make_loss(ObjectiveConfig(loss="softmax_crossentropy"))


def test_sums_over_padded_batches_equal_one_plain_mean():
    values = RNG.normal(size=(10,)).astype(np.float32)
    total = None
    for start in range(0, 10, 4):
        part = values[start : start + 4]
        mask = np.arange(4) < len(part)
        padded = np.pad(part, (0, 4 - len(part)), constant_values=np.nan)
        sums = metrics.masked_sums({"x": jnp.asarray(padded)}, jnp.asarray(mask))
        total = sums if total is None else metrics.add_sums(total, sums)
    assert metrics.finalize(total)["x"] == pytest.approx(values.mean(), rel=1e-6)
    # The same would not hold for a mean of means.
    means = [values[start : start + 4].mean() for start in range(0, 10, 4)]
    assert abs(np.mean(means) - values.mean()) > 1e-3


def test_tokens_take_the_mask_of_their_row_and_become_bits():
    values = jnp.asarray(RNG.uniform(size=(3, 4)), jnp.float32)
    mask = jnp.array([True, False, True])
    found = metrics.finalize(metrics.masked_sums({"token_loss": values}, mask))
    expected = float(np.asarray(values)[[0, 2]].mean())
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(expected / np.log(2), rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(expected), rel=1e-6)


def test_correctness_of_soft_labels():
    logits = jnp.array([[0.0, 2.0], [3.0, 1.0]])
    assert metrics.is_correct(logits, jnp.array([1, 1])).tolist() == [True, False]
    assert metrics.is_correct(logits, jax.nn.one_hot(jnp.array([1, 1]), 2)).tolist() == [
        True,
        False,
    ]


def test_uncertainty_weights_are_best_at_the_log_of_each_loss():
    values = jnp.array([[0.5, 2.0, 1.0], [0.7, 1.0, 3.0]])
    plain = losses.uncertainty_weighted(values, jnp.zeros(3))
    np.testing.assert_allclose(plain, values.sum(-1) / 2, rtol=1e-6)

    def mean(weights):
        return losses.uncertainty_weighted(values, weights).mean()

    best = jnp.log(values.mean(0))
    np.testing.assert_allclose(jax.grad(mean)(best), 0.0, atol=1e-6)
    assert mean(best) < mean(best + 0.1)
    assert mean(best) < mean(best - 0.1)

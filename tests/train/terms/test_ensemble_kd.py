"""Several teachers weighed by the example, against a loop; the calibration of what they teach."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.evaluators import Calibration
from scanmax.train.scores import Calibrated, Judge
from scanmax.train.teachers import Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.ensemble_kd import EnsembleKd, dataset_shares


def log_softmax(x):
    return x - jnp.log(sum(jnp.exp(x)))


def loop_error(probabilities, labels, bins):
    """The error of calibration, bin by bin and image by image."""
    error = 0.0
    for index in range(bins):
        sure, right = [], []
        for row, label in zip(probabilities, labels):
            if index / bins < max(row) <= (index + 1) / bins:
                sure.append(max(row))
                right.append(np.argmax(row) == label)
        if sure:
            error += len(sure) / len(labels) * abs(np.mean(sure) - np.mean(right))
    return error


class EnsembleKdSuite(ObjectiveSuite):
    options = {"shares": (3.0, 1.0), "weights_temperature": 0.7, "temperature": 2.0}
    terms = (("ensemble_kd", {"weight": 0.5, **options}),)
    fields = {
        "objective": ObjectiveConfig(weight=0.25, terms=terms),
        # Evaluated where it is asked: every run of the suite would compile it.
        "evaluators": (("calibration", {"bins": 4, "final": True}),),
    }
    teacher = SmallNet(width=6)

    def teachers(self):
        first = self.teacher_variables()
        return first, jax.tree.map(lambda x: x[..., ::-1], first)

    def reference(self, variables, batch, teachers):
        student = {"params": variables["params"]["model"]}
        own = self.model.clone(dtype=jnp.float64).apply(student, batch["image"], train=True)
        net = self.teacher.clone(dtype=jnp.float64)
        told = [net.apply(each, batch["image"]) for each in teachers]
        total = 0.0
        for row in range(len(own)):
            if batch["mask"][row]:
                label = batch["label"][row]
                worth = [
                    share * jnp.exp(log_softmax(each[row])[label] / 0.7)
                    for share, each in zip((3.0, 1.0), told)
                ]
                z = sum(w / sum(worth) * each[row] for w, each in zip(worth, told))
                p, q = log_softmax(z / 2), log_softmax(own[row] / 2)
                total += 0.5 * 4 * sum(jnp.exp(p) * (p - q)) - 0.25 * log_softmax(own[row])[label]
        return total / sum(batch["mask"])

    def test_the_evaluator_is_a_loop_over_the_held_out_images(self):
        """On padded rows of NaN, as the model says it of the rows that count."""
        run, state = self.plain_run(), self.begun()
        rows = [(b["image"][b["mask"]], b["label"][b["mask"]]) for b in run.pipeline.eval_batches()]
        images, labels = (np.concatenate(part) for part in zip(*rows))
        said = jax.nn.softmax(self.model.apply({"params": state.params["model"]}, images))
        found = run.evaluators[0](run, state)
        expected = loop_error(np.asarray(said, np.float64), labels, 4)
        self.assertEqual(list(found), ["calibration_error"])
        self.assertAlmostEqual(found["calibration_error"], expected, places=6)
        self.assertGreater(expected, 0.05)


RNG = np.random.default_rng(0)
OWN, *TEACHERS = (Told(jnp.asarray(2 * RNG.normal(size=(5, 6)), jnp.float32), {}) for _ in range(4))
TOLD = dict(enumerate(TEACHERS))
BATCH = {"label": jnp.array([0, 5, 2, 2, 1])}


def weights(batch=BATCH, **options):
    term = EnsembleKd(name="ensemble_kd", teacher=(0, 1, 2), **options)
    return term.weights(term.hear(TOLD).logits, batch)


def test_weights_become_alike_or_one_teachers_with_the_temperature():
    np.testing.assert_allclose(weights(), 1 / 3, rtol=1e-6)
    far = [np.abs(weights(weights_temperature=t) - 1 / 3).max() for t in (1.0, 10.0, 100.0, 1e5)]
    assert far == sorted(far, reverse=True)
    assert far[0] > 0.2
    assert far[-1] < 1e-4
    labels = BATCH["label"][:, None]
    losses = [
        jax.nn.logsumexp(each.logits, -1) - jnp.take_along_axis(each.logits, labels, 1)[:, 0]
        for each in TEACHERS
    ]
    best = jax.nn.one_hot(jnp.argmin(jnp.stack(losses), 0), 3).T
    np.testing.assert_allclose(weights(weights_temperature=1e-5), best, atol=1e-6)
    # Weights of a data set are the same on every example.
    shares = dataset_shares((0.2, 1.0, 3.0), 2.0)
    softmin = np.exp([-0.1, -0.5, -1.5])
    np.testing.assert_allclose(shares, softmin / softmin.sum(), rtol=1e-12)
    np.testing.assert_allclose(weights(shares=shares), np.tile(shares, (5, 1)).T, rtol=1e-6)
    np.testing.assert_allclose(dataset_shares((0.2, 900.0), 1e9), 0.5, rtol=1e-6)


def test_labels_of_mixed_images_weigh_by_both_classes():
    whole = {"label": jax.nn.one_hot(BATCH["label"], 6)}
    hot, cold = weights(whole, weights_temperature=2.0), weights(weights_temperature=2.0)
    np.testing.assert_allclose(hot, cold, rtol=1e-5)
    other = {"label": jax.nn.one_hot(5 - BATCH["label"], 6)}
    mixed = {"label": 0.5 * whole["label"] + 0.5 * other["label"]}
    product = hot * weights(other, weights_temperature=2.0)
    expected = jnp.sqrt(product) / jnp.sqrt(product).sum(0)
    np.testing.assert_allclose(weights(mixed, weights_temperature=2.0), expected, rtol=1e-5)
    # Without a temperature nothing asks for a label.
    np.testing.assert_allclose(weights({}), 1 / 3, rtol=1e-6)
    with pytest.raises(UserError, match="'ensemble_kd' needs a label of each example"):
        weights({}, weights_temperature=1.0)


def test_teachers_that_agree_are_plain_distillation():
    """And of several, `kd` hears another mean."""

    def value(name, told, **options):
        term = TERMS[name](name=name, teacher=(0, 1), **options)
        return term.apply({}, OWN, term.hear(told), BATCH)

    same = {0: TEACHERS[0], 1: TEACHERS[0]}
    found = value("ensemble_kd", same, weights_temperature=0.5)
    np.testing.assert_allclose(found, value("kd", same), rtol=1e-5)
    assert np.abs(value("ensemble_kd", TOLD) - value("kd", TOLD)).max() > 0.01


def test_what_cannot_be_weighed_is_one_line():
    for options, message in [
        ({"teacher": 1}, "weighs several teachers, and teacher=1 names one: that is 'kd'"),
        ({"teacher": (0, 2)}, "asks teacher 2"),
        ({"shares": (1.0,)}, "must be a number of each of the 2 teachers"),
    ]:
        with pytest.raises(UserError, match=message):
            EnsembleKd(name="ensemble_kd", **options).check(2)
    with pytest.raises(UserError, match="temperature=0 must be above 0"):
        dataset_shares((1.0, 2.0), 0)


@pytest.mark.parametrize("bins", [1, 15, 40])
def test_the_error_of_calibration_is_that_of_a_loop(bins):
    said = RNG.dirichlet(np.ones(5), 200)
    # On the border of two bins the lower has it.
    said[0] = (0.8, 0.2, 0, 0, 0)
    labels = RNG.integers(0, 5, 200)
    seen, judge = Calibrated(bins), Judge(tuple("abcde"))
    for rows in (slice(0, 130), slice(130, 200)):
        seen.add(said[rows].max(-1), said[rows].argmax(-1) == labels[rows])
        judge.add(said[rows], labels[rows])
    assert seen.error() == pytest.approx(loop_error(said, labels, bins), rel=1e-12)
    assert judge.scores().calibration_error == pytest.approx(loop_error(said, labels, 15))


def test_an_evaluator_of_calibration_needs_classes():
    with pytest.raises(ValueError, match="bins=0 must be at least 1"):
        Calibration(bins=0)
    run = types.SimpleNamespace(
        pipeline=SmallImages(),
        shapes=types.SimpleNamespace(params={}, carried={}),
        predict_step=lambda *given: {},
        config=types.SimpleNamespace(objective=ObjectiveConfig(name="simclr")),
    )
    with pytest.raises(UserError, match=r"needs a label of each image .* 'simclr' has none"):
        Calibration().check(run, "config.evaluators 'calibration'")

"""Norm and direction against the equation as a loop; its gradient; the means that it carries."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.teachers import Told
from scanmax.train.terms.nd_loss_kd import NdLossKd

TAPS = {"student_tap": "output", "teacher_tap": "output"}


class NdLossKdSuite(ObjectiveSuite):
    """Through a projector, beside the label's loss."""

    terms = (("nd_loss_kd", {"weight": 2.0, **TAPS}),)
    fields = {"objective": ObjectiveConfig(terms=terms)}
    teacher = SmallNet(width=6)

    def reference(self, variables, batch, teachers):
        def ask(model, params):
            model = model.clone(dtype=jnp.float64)
            found, sown = model.apply({"params": params}, batch["image"], mutable=["intermediates"])
            return found, sown["intermediates"]["output"][0]

        logits, own = ask(self.model, variables["params"]["model"])
        _, told = ask(self.teacher, teachers[0]["params"])
        projector = variables["params"]["nd_loss_kd"]["projector"]
        rows, total = np.flatnonzero(batch["mask"]), 0.0
        for row in rows:
            label = int(batch["label"][row])
            total += jnp.log(jnp.exp(logits[row]).sum()) - logits[row][label]
            s, t = own[row] @ projector["kernel"] + projector["bias"], told[row]
            mean = sum(told[other] for other in rows if batch["label"][other] == label)
            direction = mean / jnp.sqrt(mean @ mean)
            size = jnp.maximum(jnp.sqrt(s @ s), jnp.sqrt(t @ t))
            total += 2.0 * (1 - s @ direction / size)
        return total / len(rows)


def call(s, t, label, carried=None, **batch):
    """(values, what is carried) of features of one width."""
    variables = {"class_means": {"sums": jnp.zeros((3, s.shape[1]))}}
    return NdLossKd().apply(
        variables if carried is None else carried,
        Told(None, {"pre_logits": s}),
        Told(jnp.zeros((len(s), 3)), {"pre_logits": t}),
        {"label": label, **batch},
        mutable=["class_means"],
    )


RNG = np.random.default_rng(0)
LABEL = jnp.array([0, 1, 2, 0])
TEACHER = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)


def test_the_gradient_draws_short_features_and_turns_long_ones():
    """-e/|t| below the teacher's norm; orthogonal to s above it."""
    for factor in (0.1, 10.0):
        s = jnp.asarray(factor * RNG.normal(size=(4, 5)), jnp.float32)
        slope = jax.grad(lambda s: call(s, TEACHER, LABEL)[0].sum())(s)
        if factor < 1:
            sums = call(s, TEACHER, LABEL)[1]["class_means"]["sums"]
            direction = (sums / jnp.linalg.norm(sums, axis=1, keepdims=True))[LABEL]
            expected = -direction / jnp.linalg.norm(TEACHER, axis=1, keepdims=True)
            np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_allclose((slope * s).sum(axis=1), 0, atol=1e-5)
    slope = jax.grad(lambda s: call(s, TEACHER, LABEL)[0].sum())(jnp.zeros((4, 5)))
    assert np.isfinite(slope).all()


def test_means_are_those_of_all_batches_without_padding():
    s = jnp.ones((4, 5))
    _, carried = call(s, TEACHER, LABEL)
    mask = jnp.array([True, True, True, False])
    more = TEACHER.at[3].set(jnp.nan)
    values, carried = call(s, more, LABEL, carried, mask=mask)
    sums = np.zeros((3, 5))
    for row, label in enumerate(LABEL):
        sums[label] += (2 if row < 3 else 1) * TEACHER[row]
    np.testing.assert_allclose(carried["class_means"]["sums"], sums, rtol=1e-5)
    assert np.isfinite(values[:3]).all()


def test_a_mixed_label_weighs_the_classes():
    s = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
    carried = call(s, TEACHER, LABEL)[1]
    zeros = jnp.zeros(4, bool)
    each = [call(s, TEACHER, jnp.full(4, c), carried, mask=zeros)[0] for c in range(3)]
    mixed = jnp.asarray(RNG.dirichlet(np.ones(3), size=4), jnp.float32)
    found, _ = call(s, TEACHER, mixed, carried, mask=zeros)
    expected = sum(mixed[:, c] * each[c] for c in range(3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)

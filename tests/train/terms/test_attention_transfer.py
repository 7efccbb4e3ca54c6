"""Attention transfer against loops over places, and what it refuses; standardised logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.train.losses import soft_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms.attention_transfer import AttentionTransfer
from scanmax.train.terms.dkd import Dkd
from scanmax.train.terms.kd import Kd

RNG = np.random.default_rng(0)
OWN, TOLD = RNG.normal(size=(2, 3, 3, 4)), RNG.normal(size=(2, 9, 6))


def answer(x):
    return Told(None, {"block_00/output": jnp.asarray(x)})


def by_loops(own, told):
    def places(x):
        squares = [sum(v * v for v in place) / len(place) for place in x.reshape(9, -1)]
        norm = sum(s * s for s in squares) ** 0.5
        return [s / norm for s in squares]

    return sum((a - b) ** 2 for a, b in zip(places(own), places(told))) / 9


def test_the_term_equals_the_loop():
    with jax.enable_x64(True):
        found = AttentionTransfer()(answer(OWN), answer(TOLD), {})
    expected = [by_loops(own, told) for own, told in zip(OWN, TOLD)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_its_slope_is_that_of_differences_and_zeros_have_one():
    with jax.enable_x64(True):

        def loss(x):
            return AttentionTransfer()(answer(x), answer(TOLD), {}).sum()

        slope, step = jax.grad(loss)(OWN), np.zeros_like(OWN)
        step[1, 2, 0, 3] = 1e-6
        measured = (loss(OWN + step) - loss(OWN - step)) / 2e-6
        np.testing.assert_allclose(slope[1, 2, 0, 3], measured, rtol=1e-7)
        assert np.isfinite(jax.grad(loss)(np.zeros_like(OWN))).all()


@pytest.mark.parametrize("told", [TOLD[:, :4], TOLD[:, 0]])
def test_maps_of_other_places_are_a_line(told):
    with pytest.raises(UserError, match=r"holds 9 places of the student's .* take taps of equal"):
        AttentionTransfer(name="attention_transfer")(answer(OWN), answer(told), {})


def test_standardised_logits_are_blind_to_size_and_mean():
    with jax.enable_x64(True):
        student, teacher = (Told(jnp.asarray(RNG.normal(size=(4, 7))), {}) for _ in range(2))
        batch = {"label": jnp.array([0, 3, 6, 1])}
        larger = student._replace(logits=5 * student.logits + 2)
        for term in (Kd(standardize=True), Dkd(standardize=True)):
            plain = term(student, teacher, batch)
            np.testing.assert_allclose(term(larger, teacher, batch), plain, rtol=1e-6)
        by_hand = [
            (x - x.mean(-1, keepdims=True)) / np.std(x, axis=-1, ddof=1, keepdims=True)
            for x in (np.asarray(student.logits), np.asarray(teacher.logits))
        ]
        expected = soft_distillation(*by_hand, temperature=2.0)
        found = Kd(temperature=2.0, standardize=True)(student, teacher, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert not np.allclose(Kd()(larger, teacher, batch), Kd()(student, teacher, batch))

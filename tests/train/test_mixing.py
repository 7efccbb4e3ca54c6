"""Mixing on the device: each pixel and each label against a loop, and in the trainer's own step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config
from scanmax.train.mixing import MIXES
from scanmax.train.mixing.base import box_shares, symmetric_beta

ROWS, SIDE, CLASSES = 6, 8, 3
CASES = {
    f"{name}-{per}": (name, {"per": per})
    for name in ("mixup", "cutmix", "mixup_cutmix")
    for per in ("batch", "pair", "element")
} | {"attentive_cutmix": ("attentive_cutmix", {"grid": 4, "cells": 3})}


def batch(count=ROWS):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(count, SIDE, SIDE, 2)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, CLASSES, count), jnp.int32),
        "mask": jnp.ones(count, bool),
    }


@pytest.mark.parametrize("case", CASES)
def test_pixels_and_labels_are_those_of_a_loop_over_rows(case):
    name, options = CASES[case]
    mix = MIXES[name](classes=CLASSES, **options)
    given = batch()
    guide = jnp.asarray(np.random.default_rng(1).uniform(size=(ROWS, 4, 4)), jnp.float32)
    found = jax.jit(mix)(jax.random.key(3), given, guide if mix.guided else None)
    own = np.asarray(found["mix_mask"], np.float64)
    images, labels = np.asarray(given["image"], np.float64), np.eye(CLASSES)[given["label"]]
    for row in range(ROWS):
        partner = ROWS - 1 - row
        for y in range(SIDE):
            for x in range(SIDE):
                share = own[row, y, x]
                expected = share * images[row, y, x] + (1 - share) * images[partner, y, x]
                np.testing.assert_allclose(found["image"][row, y, x], expected, atol=1e-6)
        share = own[row].mean()
        np.testing.assert_allclose(found["mix_weight"][row], share, atol=1e-6)
        expected = share * labels[row] + (1 - share) * labels[partner]
        np.testing.assert_allclose(found["label"][row], expected, atol=1e-6)
        assert float(found["label"][row].sum()) == pytest.approx(1, abs=1e-6)
        if name == "attentive_cutmix":
            strongest = np.argsort(-np.asarray(guide[partner]).ravel())[:3]
            cells = np.zeros(16)
            cells[strongest] = 1
            np.testing.assert_array_equal(
                1 - own[row], np.kron(cells.reshape(4, 4), np.ones((2, 2)))
            )
    assert (own < 1).any()


@pytest.mark.parametrize("per", ["batch", "pair", "element"])
def test_what_is_drawn_is_shared_as_said(per):
    mix = MIXES["mixup"](classes=CLASSES, per=per)
    own = mix.own_share(jax.random.key(0), (64, 2, 2), None)[:, 0, 0]
    distinct = {"batch": 1, "pair": 32, "element": 64}[per]
    assert len(np.unique(np.asarray(own))) == distinct
    if per == "pair":
        np.testing.assert_array_equal(own, own[::-1])
    half = MIXES["mixup"](classes=CLASSES, per=per, probability=0.5)
    keys = jax.random.split(jax.random.key(1), 40)
    kept = jax.vmap(lambda key: half.own_share(key, (8, 1, 1), None)[:, 0, 0] == 1)(keys)
    assert 0.3 < float(kept.mean()) < 0.7


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.8, 1.0, 2.0, 30.0])
def test_draws_follow_the_beta_distribution(alpha):
    draws = np.asarray(symmetric_beta(jax.random.key(3), alpha, (200, 50)), np.float64)
    assert draws.shape == (200, 50)
    assert (draws >= 0).all()
    assert (draws <= 1).all()
    # Shares below float32's last place are 0 for a small alpha, and as many are 1.
    cut = np.clip(draws.ravel(), 1e-7, 1 - 1e-7)
    law = scipy.stats.beta(alpha, alpha)
    at = np.linspace(0.001, 0.999, 400)
    found = np.searchsorted(np.sort(cut), at) / cut.size
    assert np.abs(found - law.cdf(at)).max() < 1.63 / np.sqrt(cut.size)  # Kolmogorov, 1%


def test_boxes_are_timms_for_the_same_draws():
    weight, centre = (
        np.asarray([0.3, 0.75, 0.0, 1.0]),
        np.asarray([[0.1, 0.9], [0.5, 0.5], [0.99, 0.0], [0.4, 0.4]]),
    )
    found = box_shares(jnp.asarray(weight), jnp.asarray(centre), (9, 14))
    for row in range(4):
        expected = np.ones((9, 14))
        ratio = np.sqrt(1 - weight[row])
        cut_y, cut_x = int(9 * ratio), int(14 * ratio)
        y, x = int(9 * centre[row, 0]), int(14 * centre[row, 1])
        low_y, high_y = np.clip([y - cut_y // 2, y + (cut_y + 1) // 2], 0, 9)
        low_x, high_x = np.clip([x - cut_x // 2, x + (cut_x + 1) // 2], 0, 14)
        expected[low_y:high_y, low_x:high_x] = 0
        np.testing.assert_array_equal(found[row], expected)


def test_rows_that_do_not_count_reach_no_other():
    given = batch()
    given["mask"] = given["mask"].at[jnp.asarray([1, 2])].set(False)
    given["image"] = given["image"].at[1].set(jnp.nan)
    found = MIXES["cutmix"](classes=CLASSES, per="element")(jax.random.key(0), given)
    for row in (1, 2, 3, 4):
        np.testing.assert_array_equal(found["image"][row], given["image"][row])
        assert float(found["mix_weight"][row]) == 1
    assert np.isfinite(found["image"][np.asarray([0, 2, 3, 4, 5])]).all()


def test_distributions_are_mixed_as_classes_are():
    given = batch()
    mix = MIXES["cutmix"](classes=CLASSES)
    found = mix(jax.random.key(0), given)
    given["label"] = jax.nn.one_hot(given["label"], CLASSES)
    np.testing.assert_array_equal(mix(jax.random.key(0), given)["label"], found["label"])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mix": (("cutmx", {}),)}, "did you mean 'cutmix'"),
        ({"mix": (("cutmix", {"per": "row"}),)}, "per='row' is not one of batch"),
        ({"mix": (("mixup", {"probability": 2.0}),)}, "probability=2.0"),
        ({"mix": (("attentive_cutmix", {"cells": 50}),)}, "cells=50"),
    ],
)
def test_mistakes_are_one_line(fields, expected):
    with pytest.raises(UserError, match=expected):
        build(Config(**fields, batch_size=16), pipeline=SmallImages(), model=SmallNet())


class CutMixSuite(ObjectiveSuite):
    fields = {"mix": (("cutmix", {"per": "element"}),)}
    frozen = ("head_dist",)


class AttentiveSuite(ObjectiveSuite):
    """The guide comes from the teacher's features."""

    fields = {"mix": (("attentive_cutmix", {"grid": 2, "cells": 1}),)}
    teacher = SmallNet(width=6)
    frozen = ("head_dist",)

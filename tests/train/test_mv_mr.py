"""Level 9: views held together by the distances between examples, against a plain loop."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.testing.small_run import SmallImages
from scanmax.train.build import build
from scanmax.train.config import CheckpointConfig, Config, ModelConfig, ObjectiveConfig
from scanmax.train.objectives.mv_mr import local_deviations, oriented_histograms

KWARGS = {"projector_widths": (6,), "bins": 3, "cell": 2, "margin": 2.5}
# Descriptions without a gradient: numpy, in a loop of their own.
SOBEL = np.outer([1.0, 2, 1], [1.0, 0, -1])


def histogram(image, bins, cell):
    """[Y, X] -> [y, x, bins]"""
    height, width = image.shape
    padded = np.pad(image, 1)
    found = np.zeros((height // cell, width // cell, bins))
    for y, x in itertools.product(range(height // cell * cell), range(width // cell * cell)):
        near = padded[y : y + 3, x : x + 3]
        across, down = (near * SOBEL).sum(), (near * SOBEL.T).sum()
        place = np.arctan2(across, down) / np.pi * bins
        low = int(np.floor(place))
        for which, share in ((low, low + 1 - place), (low + 1, place - low)):
            size = np.hypot(across, down) * share / cell**2
            found[y // cell, x // cell, which % bins] += size
    return found


def deviation(image):
    padded = np.pad(image, 1, mode="reflect")
    places = itertools.product(*map(range, image.shape))
    return np.array([padded[y : y + 3, x : x + 3].std() for y, x in places])


def correlation(x, y):
    count, centred = len(x), []
    for rows in (x, y):
        apart = rows[:, None] - rows[None]
        square = (apart * apart).sum(-1)
        far = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        centred.append(far - far.sum(0) / count - far.sum(1)[:, None] / count + far.mean())
    a, b = centred
    return jnp.sqrt((a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum()))


class MvMrSuite(ObjectiveSuite):
    fields = {
        "objective": ObjectiveConfig(name="mv_mr", weight=0.3, kwargs=KWARGS),
        "evaluators": (("knn", {"k": 3}),),
    }
    model = SmallNet(num_classes=0)
    views = 2
    # Distances are differences: digits are lost.
    rms_bf16 = 0.1

    def config(self, **fields):
        config = super().config(**fields)
        config.checkpoint.metric, config.checkpoint.mode = "knn_accuracy", "max"
        return config

    def reference(self, variables, batch, teachers):
        kept = np.flatnonzero(np.asarray(BATCH_MASK))
        params = variables["params"]
        model, kernel = self.model.clone(dtype=jnp.float64), params["projector"]["fc0"]["kernel"]
        z, plain = (
            model.apply({"params": params["model"]}, batch["image"][kept, view]) @ kernel
            for view in (0, 1)
        )
        total = ((z - plain) ** 2).mean() + 1 - correlation(z, plain)
        for x in (z, plain):
            spread = jnp.sqrt(((x - x.mean(0)) ** 2).sum(0) / (len(kept) - 1))
            total += jnp.maximum(0, 2.5 - spread).mean()
        images = super().batch(size=4)["image"][kept, ..., 0].astype(np.float64)
        descriptions = (
            images[:, 1],
            images[:, 0],
            np.stack([histogram(image, 3, 2) for image in images[:, 1]]),
            np.stack([deviation(image) for image in images[:, 1]]),
        )
        for fixed in descriptions:
            total += 1 - correlation(z, fixed.reshape(len(kept), -1))
        return 0.3 * total


# The suite leaves the second of four rows out.
BATCH_MASK = (True, False, True, True)


def test_descriptions_of_images_are_those_of_a_loop_over_pixels():
    images = np.random.default_rng(0).normal(size=(2, 7, 5, 2)).astype(np.float32)
    found = oriented_histograms(images, 4, 3)
    assert found.shape == (2, 2, 1, 8)
    stds = local_deviations(images)
    for row, channel in itertools.product(range(2), range(2)):
        expected = histogram(images[row, ..., channel].astype(np.float64), 4, 3)
        ours = found[row, ..., 4 * channel : 4 * channel + 4]
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        flat = stds[row, ..., channel].ravel()
        np.testing.assert_allclose(flat, deviation(images[row, ..., channel]), rtol=1e-4)


def test_unknown_descriptions_are_refused():
    kwargs = {**KWARGS, "representations": ("pixels", "sift")}
    config = Config(
        objective=ObjectiveConfig(name="mv_mr", kwargs=kwargs),
        model=ModelConfig(name="small"),
        batch_size=16,
        duration="2 steps",
        evaluators=(("knn", {"k": 3}),),
        checkpoint=CheckpointConfig(metric="knn_accuracy", mode="max"),
    )
    with pytest.raises(UserError, match="must be of pixels, augmented, hog, deviation"):
        build(config, pipeline=SmallImages(16, 2), model=SmallNet())

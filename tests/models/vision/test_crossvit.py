"""CrossViT: the suite of every model, published counts and costs, two tables of positions."""

import jax
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.weights import load_weights
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "img_size": 48,
    "img_scales": (1.0, 2 / 3),
    "dims": (8, 12),
    "depths": (1, 2),
    "stages": 2,
    "heads": (2, 2),
    "mlp_ratio": 2.0,
    "num_classes": 5,
}


class CrossVitSuite(ModelSuite):
    family = "crossvit"
    # What the others are made of; all of them are counted below.
    names = ("crossvit_tiny_240", "crossvit_15_dagger_408")
    small = (
        ModelCase("crossvit_tiny_240", SMALL, input_size=(48, 48, 3), other_inputs=((72, 48, 3),)),
    )
    # The softmax takes away what is added to all keys.
    vanishing = r".*/attention/key/bias"

    def pooled_channels(self, info) -> int:
        return sum(feature.channels for feature in info.features)


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("crossvit", CrossVitSuite.names)


def test_multiply_adds_are_the_papers():
    assert default_multiply_adds("crossvit_tiny_240") / 1e9 == pytest.approx(1.6, abs=0.05)


def test_both_tables_of_positions_are_adapted():
    model = create_model("crossvit_tiny_240", **SMALL)
    images = np.zeros((1, 48, 48, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    larger = create_model("crossvit_tiny_240", **{**SMALL, "img_size": 96})
    loaded = load_weights(larger, variables, adapt=["positions"])["params"]
    assert loaded["pos_embed_0"].value.shape == (1 + 8 * 8, 8)
    assert loaded["pos_embed_1"].value.shape == (1 + 4 * 4, 12)

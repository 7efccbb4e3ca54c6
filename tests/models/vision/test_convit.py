"""ConViT: the suite of every model, and the published counts."""

import jax
import numpy as np
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models import create_model
from scanmax.models.weights import load_weights
from scanmax.testing import ModelCase, ModelSuite

SMALL = {
    "img_size": 16,
    "patch_size": 4,
    "dim": 8,
    "depth": 2,
    "class_depth": 1,
    "mlp_ratio": 2.0,
    "num_classes": 5,
}


class ConVitSuite(ModelSuite):
    family = "convit"
    # All sizes are counted below.
    names = ("convit_tiny", "convit_small")
    small = (ModelCase("convit_tiny", SMALL, input_size=(16, 16, 3), other_inputs=((24, 16, 3),)),)
    # The softmax over places takes it away.
    vanishing = r".*/position_bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("convit", ConVitSuite.names)


def test_positions_of_another_size_are_adapted():
    model = create_model("convit_tiny", **SMALL)
    images = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    larger = create_model("convit_tiny", **{**SMALL, "img_size": (24, 16)})
    loaded = load_weights(larger, variables, adapt=["positions"])
    assert loaded["params"]["pos_embed"].value.shape == (24, 8)

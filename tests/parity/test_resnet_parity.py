"""ResNets against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_trains_alike

import scanmax

pytestmark = pytest.mark.parity

# What the variants are made of, each part once: timm's fields, and ours.
CASES = {
    "resnet18": ({"layers": (1, 2, 1, 1), "channels": (8, 8, 16, 24)}, {}),
    "resnext50d_32x4d": (
        {"layers": (2, 1, 1, 1), "channels": (16, 16, 32, 32), "cardinality": 2, "base_width": 16},
        {"groups": 2, "base_width": 16},
    ),
    "seresnet50t": ({"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 16)}, {}),
    "ecaresnet26t": ({"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}, {}),
    "skresnet18": ({"layers": (1, 2, 1, 1), "channels": (8, 8, 16, 24)}, {}),
    "skresnext50_32x4d": (
        {"layers": (1, 1, 1, 1), "channels": (16, 16, 16, 16), "cardinality": 2, "base_width": 32},
        {"groups": 2, "base_width": 32},
    ),
    "senet154": (
        {"layers": (1, 1, 1, 1), "channels": (16, 16, 16, 16), "cardinality": 2, "base_width": 32},
        {"groups": 2, "base_width": 32},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_a_training_step_are_those_of_timm(peers, name):
    theirs, ours = CASES[name]
    # An odd map: padding, pooling and averages at a rest are the peer's too. In float64: a norm
    # over few pixels makes much of a rounding.
    fields = {"dtype": np.float64, "param_dtype": np.float64, "num_classes": 10, **ours}
    fields |= {"dims": theirs["channels"], "depths": theirs["layers"]}
    run = peers.image_model(name, 50, seed=3, dtype=torch.float64, **theirs)
    with jax.enable_x64(True):
        model = scanmax.create_model(name, **fields)
        assert_agrees(model, run)
        assert_trains_alike(model, run)


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "resnet34d", "resnet50", "seresnext26t_32x4d", "ecaresnetlight", "skresnet50d"],
)
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

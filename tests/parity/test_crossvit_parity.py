"""CrossViT against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_maps_agree

import scanmax

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "crossvit_9_dagger_240"])
def test_logits_gradients_and_maps_are_those_of_timm(peers, name):
    theirs = {
        "img_size": 72,
        "img_scale": (1.0, 64 / 72),
        "embed_dim": (8, 16),
        "depth": ((1, 2, 0), (1, 2, 0)),
        "num_heads": (2, 2),
        "mlp_ratio": (2.0, 2.0, 1.0),
    }
    run = peers.image_model(name, 72, seed=3, dtype=torch.float64, maps={}, **theirs)
    ours = {
        "img_size": 72,
        "img_scales": (1.0, 64 / 72),
        "dims": (8, 16),
        "depths": (1, 2),
        "stages": 2,
        "heads": (2, 2),
        "mlp_ratio": 2.0,
    }
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **ours, **double)
        # The softmax takes away what is added to all keys.
        assert_agrees(model, run, vanishing=r".*/attention/key/bias")
        # timm counts the maps of a branch by stages.
        assert_maps_agree(model, run, (1, 3))


@pytest.mark.parametrize("name", ["crossvit_small_240", "crossvit_18_dagger_408"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

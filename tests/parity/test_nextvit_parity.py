"""Next-ViT against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import (
    assert_agrees,
    assert_every_tensor_has_its_place,
    assert_maps_agree,
    assert_trains_alike,
)

import scanmax

pytestmark = pytest.mark.parity


def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers):
    # timm's widths are fixed. Odd maps: what pooling does with a rest is the peer's too.
    depths = (2, 2, 5, 2)
    fields = {"maps": {}, "noise": 0.02, "depths": depths, "drop_path_rate": 0.0}
    run = peers.image_model("nextvit_small", 66, seed=3, dtype=torch.float64, **fields)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        groups = {"depths": depths, "group_sizes": (0, 2, 5, 2)}
        model = scanmax.create_model("nextvit_small", num_classes=10, **groups, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run, (0, 1, 2, 3))
        assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["nextvit_small", "nextvit_base", "nextvit_large"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

"""Dual Path Networks against timm, live."""

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


# timm fixes the widths of the residual path, from 64 on.
@pytest.mark.parametrize("name", ["dpn48b", "dpn68"])
def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers, name):
    theirs = {"k_sec": (2, 1), "inc_sec": (2, 3), "k_r": 8, "groups": 4}
    ours = {"dims": (64, 128), "depths": (2, 1), "growths": (2, 3), "hidden_dim": 8, "groups": 4}
    # An odd map, in float64: a norm over few pixels makes much of a rounding.
    run = peers.image_model(name, 50, seed=3, dtype=torch.float64, **theirs)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **ours, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run)
        assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["dpn68b", "dpn107"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

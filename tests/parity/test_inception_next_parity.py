"""InceptionNeXt against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_trains_alike

import scanmax

pytestmark = pytest.mark.parity


def test_logits_gradients_and_a_training_step_are_those_of_timm(peers):
    shape = {"dims": (8, 8, 16, 16), "depths": (1, 1, 2, 1)}
    # An odd map: what a halving leaves out is the peer's rest too.
    run = peers.image_model("inception_next_tiny", 76, seed=3, dtype=torch.float64, **shape)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model("inception_next_tiny", num_classes=10, **shape, **double)
        assert_agrees(model, run)
        assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["inception_next_atto", "inception_next_tiny"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

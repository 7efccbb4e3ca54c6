"""ConViT against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_maps_agree

import scanmax

pytestmark = pytest.mark.parity


def test_logits_gradients_and_maps_are_those_of_timm(peers):
    # timm multiplies the width by the heads.
    theirs = {"embed_dim": 4, "num_heads": 4, "depth": 3, "local_up_to_layer": 2}
    shape = {"img_size": 24, "patch_size": 8, "mlp_ratio": 2.0}
    peer = peers.timm.models.convit.ConVit
    run = peers.image_model(peer, 24, seed=3, dtype=torch.float64, maps={}, **theirs, **shape)
    ours = {"dim": 16, "heads": 4, "depth": 2, "class_depth": 1, **shape}
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model("convit_tiny", num_classes=10, **ours, **double)
        # The softmax over places takes away what is added to all.
        assert_agrees(model, run, vanishing=r".*/position_bias")
        assert_maps_agree(model, run, (0, 1))


@pytest.mark.parametrize("name", ["convit_tiny", "convit_small", "convit_base"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

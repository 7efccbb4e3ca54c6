"""ConvMixer against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_trains_alike

import scanmax

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["convmixer_768_32", "convmixer_1024_20_ks9_p14"])
def test_logits_gradients_and_a_training_step_are_those_of_timm(peers, name):
    fields = {"dim": 8, "depth": 2, "kernel_size": 5, "patch_size": 4}
    own = {"act_layer": torch.nn.ReLU} if name == "convmixer_768_32" else {}
    # 18 pixels leave a rest that no patch covers.
    peer = peers.timm.models.convmixer.ConvMixer
    run = peers.image_model(peer, 18, seed=3, dtype=torch.float64, **fields, **own)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **fields, **double)
        assert_agrees(model, run)
        assert_trains_alike(model, run)


def test_every_tensor_of_a_published_size_has_its_place(peers):
    assert_every_tensor_has_its_place(peers, "convmixer_1024_20_ks9_p14")

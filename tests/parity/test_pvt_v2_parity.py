"""PVTv2 against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_maps_agree

import scanmax

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_logits_gradients_and_maps_are_those_of_timm(peers, name):
    theirs = {
        "embed_dims": (8, 16),
        "depths": (1, 2),
        "num_heads": (1, 2),
        "sr_ratios": (2, 1),
        "mlp_ratios": (3.0, 2.0),
    }
    ours = {
        "dims": (8, 16),
        "depths": (1, 2),
        "heads": (1, 2),
        "reductions": (2, 1),
        "mlp_ratio": (3.0, 2.0),
    }
    # An odd map: padding and the rest of a cell are the peer's too.
    run = peers.image_model(name, 36, seed=3, dtype=torch.float64, maps={}, **theirs)
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **ours, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run, (0, 1))


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li", "pvt_v2_b5"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

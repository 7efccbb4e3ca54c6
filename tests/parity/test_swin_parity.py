"""Swin against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_maps_agree

import scanmax

pytestmark = pytest.mark.parity


def test_logits_gradients_and_maps_are_those_of_timm(peers):
    # A map of 10, 5 and 3 places a side: windows that tile it shifted and not, one that is the
    # whole map, and mergings of an odd one.
    run = peers.image_model(
        "swin_tiny_patch4_window7_224",
        40,
        seed=3,
        dtype=torch.float64,
        img_size=40,
        embed_dim=8,
        depths=(2, 2, 4),
        num_heads=(1, 2, 4),
        window_size=(5, 5, 3),
    )
    fields = {"dims": (8, 16, 32), "depths": (2, 2, 4), "heads": (1, 2, 4)}
    with jax.enable_x64(True):
        model = scanmax.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=10,
            window_size=(5, 5, 3),
            dtype=np.float64,
            param_dtype=np.float64,
            **fields,
        )
        assert_agrees(model, run)
        assert_maps_agree(model, run)


@pytest.mark.parametrize("name", ["swin_base_patch4_window12_384", "swin_s3_tiny_224"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

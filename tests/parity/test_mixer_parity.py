"""MLP-Mixer, gMixer and ResMLP against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place, assert_maps_agree

import scanmax

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["mixer_s32_224", "gmixer_12_224", "resmlp_12_224"])
def test_logits_and_gradients_are_those_of_timm(peers, name):
    peer = peers.timm.models.mlp_mixer
    layers = {
        "mixer_s32_224": {"mlp_ratio": (0.5, 4.0)},
        "gmixer_12_224": {
            "mlp_ratio": (1.0, 4.0),
            "mlp_layer": peers.timm.layers.GluMlp,
            "act_layer": torch.nn.SiLU,
        },
        "resmlp_12_224": {
            "mlp_ratio": 4,
            "block_layer": peer.ResBlock,
            "norm_layer": peer.Affine,
        },
    }[name]
    shape = {"img_size": 24, "patch_size": 8}
    fields = {"embed_dim": 8, "num_blocks": 2}
    run = peers.image_model(
        peer.MlpMixer,
        24,
        seed=3,
        dtype=torch.float64,
        maps={"norm": True},
        **shape,
        **fields,
        **layers,
    )
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, dim=8, depth=2, **shape, **double)
        # A layer norm takes away what is added to all channels of a token.
        vanishing = r"(?!)" if name.startswith("resmlp") else r"params/block_\d+/mixer/fc2_bias"
        assert_agrees(model, run, vanishing)
        assert_maps_agree(model, run, (0, 1))


@pytest.mark.parametrize("name", ["mixer_b16_224", "gmixer_24_224", "resmlp_big_24_224"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

"""ViT and DeiT against timm, live."""

import jax
import numpy as np
import pytest
import torch
from parity.agreement import (
    assert_agrees,
    assert_every_tensor_has_its_place,
    assert_trains_alike,
)

import scanmax

pytestmark = pytest.mark.parity

SMALL = {"img_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "num_classes": 10}


@pytest.mark.parametrize("distilled", [False, True])
def test_logits_and_gradients_are_those_of_timm(peers, distilled):
    name = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    model = scanmax.create_model(name, **SMALL)
    assert_agrees(model, peers.deit(distilled, seed=11))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"global_pool": "avg"}, {"pool": "avg"}),
        ({"global_pool": "avg", "class_token": False}, {"pool": "avg", "class_token": False}),
        ({"global_pool": "avg", "fc_norm": False}, {"pool": "avg", "fc_norm": False}),
        ({"fc_norm": True}, {"fc_norm": True}),
        ({"reg_tokens": 1}, {"reg_tokens": 1}),
        ({"no_embed_class": True}, {"no_embed_class": True}),
        (
            {"global_pool": "avg", "reg_tokens": 4, "no_embed_class": True, "init_values": 0.5},
            {"pool": "avg", "reg_tokens": 4, "no_embed_class": True, "layer_scale": 0.5},
        ),
    ],
)
def test_pooling_and_prefix_are_those_of_timm(peers, theirs, ours):
    model = scanmax.create_model("deit_tiny_patch16_224", **SMALL, **ours)
    assert_agrees(model, peers.deit(seed=5, **theirs))


def test_branches_side_by_side_are_those_of_timm(peers):
    fields = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "init_values": 0.3}
    run = peers.image_model("vit_small_patch16_18x2_224", 32, seed=7, depth=2, **fields)
    model = scanmax.create_model("vit_small_patch16_18x2_224", **SMALL, layer_scale=0.3)
    assert_agrees(model, run)


def test_convolutions_inside_patches_are_those_of_torch(peers):
    """hMLP under the names of its release, in timm's model: it has no such stem."""

    def with_stem(num_classes):
        model = peers.timm.create_model(
            "deit_tiny_patch16_224",
            num_classes=num_classes,
            img_size=32,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
        )
        convolutions = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 32, 2, 2)
        norms = torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(32)
        layers = [convolutions[0], norms[0], torch.nn.GELU(), convolutions[1], norms[1]]
        model.patch_embed.proj = torch.nn.Sequential(*layers)
        return model

    run = peers.image_model(with_stem, 32, seed=3, dtype=torch.float64)
    with jax.enable_x64(True):
        fields = {"stem": "hmlp", "dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model("deit_tiny_patch16_224", **SMALL, **fields)
        assert_agrees(model, run)
        assert_trains_alike(model, run)


# Sizes of a paper that timm has not; laying out the two largest would take gigabytes.
ABSENT = ("vit_base_patch16_36x1_224", "vit_small_patch16_12x3_224")
# Other families begin with "vit_" too.
SIZES = [
    name
    for name in scanmax.list_models(family="vit")
    if name not in ABSENT and scanmax.model_info(name).params < 10**9
]


@pytest.mark.parametrize("name", SIZES)
def test_every_tensor_of_every_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

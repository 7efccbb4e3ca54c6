"""EfficientNet and its CondConv kin against timm, live."""

import functools
import importlib

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
from scanmax.models.vision.efficientnet import scaled

pytestmark = pytest.mark.parity


def build(peers, name, blocks):
    """timm's network of those blocks, a quarter as wide, with the paddings and norms of a name."""
    # The name in the package may be that of a function.
    module = importlib.import_module(f"{peers.timm.models.__name__}.efficientnet")
    is_tf = name.startswith("tf_")

    def build(num_classes):
        return module.EfficientNet(
            block_args=module.decode_arch_def(blocks),
            num_classes=num_classes,
            num_features=24,
            stem_size=32,
            round_chs_fn=lambda channels: scaled(channels, 1 / 4),
            act_layer=torch.nn.SiLU,
            norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3 if is_tf else 1e-5),
            pad_type="same" if is_tf else "",
        )

    return build


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnet_cc"])
def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers, name):
    experts = 3 if "_cc" in name else 0
    mixed = f"_cc{experts}" if experts else ""
    blocks = [
        ["ds_r2_k3_s1_e1_c16_se0.25"],
        ["ir_r2_k3_s2_e6_c32_se0.25"],
        [f"ir_r2_k5_s2_e6_c64_se0.25{mixed}"],
    ]
    fields = {
        "dims": (8, 8, 16),
        "depths": (2, 2, 2),
        "strides": (1, 2, 2),
        "kernel_sizes": (3, 3, 5),
        "expansions": (1, 6, 6),
        "experts": (0, 0, experts),
        "stem_dim": 8,
        "head_dim": 24,
    }
    # A size that two strides divide and the third does not, where paddings differ, in float64.
    run = peers.image_model(build(peers, name, blocks), 36, seed=3, dtype=torch.float64)
    full = f"{name}_b0_4e" if experts else name
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(full, num_classes=10, **fields, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run)
        assert_trains_alike(model, run)


@pytest.mark.parametrize(
    "name", ["efficientnet_b3", "tf_efficientnet_cc_b0_4e", "tf_efficientnet_cc_b1_8e"]
)
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

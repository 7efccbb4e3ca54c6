"""HaloNet against timm, live."""

import dataclasses
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

pytestmark = pytest.mark.parity

# Both stems, convolutions in groups and not, either gate; queries as wide as values and not.
CASES = {
    "sehalonet33ts": {"stem": (6, 8, 16), "last_dim": 24, "group_size": 0, "head_dim": None},
    "eca_halonext26ts": {"stem": (6, 8, 16), "last_dim": 0, "group_size": 4, "head_dim": 3},
}


def small(peers, name):
    """timm's model of that name in two stages, the second of which halves its map by attention."""
    byob = importlib.import_module(f"{peers.timm.models.__name__}.byobnet")
    byoanet = importlib.import_module(f"{peers.timm.models.__name__}.byoanet")
    case = CASES[name]
    fields = {"gs": case["group_size"], "br": 0.5}
    attention = {"block_size": 4, "halo_size": 1, "num_heads": 2, "dim_head": case["head_dim"]}
    config = dataclasses.replace(
        byoanet.model_cfgs[name],
        blocks=(
            byob.interleave_blocks(types=("bottle", "self_attn"), d=2, c=16, s=1, **fields),
            byob.ByoBlockCfg(type="self_attn", d=1, c=32, s=2, **fields),
        ),
        stem_chs=16,
        num_features=case["last_dim"],
        self_attn_kwargs=attention,
    )
    return lambda num_classes: byob.ByobNet(config, num_classes=num_classes)


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers, name):
    case = CASES[name]
    # timm's maps are of whole blocks: 8 places a side where attention halves them.
    run = peers.image_model(small(peers, name), 32, seed=3, dtype=torch.float64)
    fields = {
        "dims": (16, 32),
        "hidden_dims": (8, 16),
        "depths": (2, 1),
        "attention": ((1,), (0,)),
        "heads": (2, 2),
        "head_dim": case["head_dim"],
        "block_size": 4,
        "halo": 1,
        "group_size": case["group_size"],
        "stem_dims": case["stem"],
        "last_dim": case["last_dim"],
    }
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **fields, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run)
        assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["halonet_h1", "halonet26t", "halonet50ts", "sehalonet33ts"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

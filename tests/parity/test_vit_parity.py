"""ViT and DeiT against timm, live."""

import jax
import numpy as np
import pytest
from parity.agreement import assert_agrees

import scanmax
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert

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


# Laying out the two largest would take gigabytes.
SIZES = [name for name in scanmax.list_models("vit_*") if scanmax.model_info(name).params < 10**9]


@pytest.mark.parametrize("name", [*SIZES, *scanmax.list_models("deit_*")])
def test_every_tensor_of_every_published_size_has_its_place(peers, name):
    if not peers.timm.is_model(name):
        pytest.skip(f"timm has no {name}")
    model, info = scanmax.create_model(name), scanmax.model_info(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), info.example())
    shapes = {path: leaf.shape for path, leaf in named_leaves(variables)}
    # Zeros without memory of their own: only names and shapes are compared.
    tensors = {
        key: np.broadcast_to(np.float16(0), shape)
        for key, shape in peers.state_shapes(name).items()
    }
    _, problems = convert(tensors, key_table(model).rows, shapes)
    assert not problems, problems

"""Rates by depth: how deep the layers of every kind of network lie, looped or stacked."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.train.config import OptimConfig
from scanmax.train.layer_decay import layer_depths, layer_factors
from scanmax.train.optim import make_optimizer, param_path
from scanmax.train.state import logical_axes


def depths(name):
    """Scope -> depth of a registered model, and the depth of its head."""
    model = create_model(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), model_info(name).example())
    paths = jax.tree_util.tree_leaves_with_path(nn.unbox(variables)["params"])
    found, top = layer_depths({param_path(path): 1 for path, _ in paths})
    return {path.split("/")[0]: depth[0] for path, depth in found.items()}, top


def test_blocks_stand_in_their_order():
    found, top = depths("vit_tiny_patch16_224")
    assert top == 13
    assert [found[name] for name in ("cls_token", "pos_embed", "patch_embed")] == [0, 0, 0]
    assert [found[f"block_{index:02}"] for index in range(12)] == list(range(1, 13))
    assert (found["norm"], found["head"]) == (12, 13)


def test_what_is_between_stages_belongs_to_the_block_behind_it():
    found, top = depths("convnext_tiny")
    assert top == 19
    assert (found["patch_embed"], found["stage0_block_00"], found["downsample1"]) == (0, 1, 4)
    assert (found["stage1_block_00"], found["stage3_block_02"], found["head"]) == (4, 18, 19)


def test_class_blocks_come_last_and_mixed_stages_count_whole():
    found, top = depths("xcit_nano_12_p16_224")
    assert (found["block_11"], found["class_block_00"], found["class_block_01"]) == (12, 13, 14)
    assert top == 15
    found, top = depths("resnet10t")
    assert top == 5
    assert [found[f"stage{s}_first_00"] for s in range(4)] == [1, 2, 3, 4]
    assert (found["stem1"], found["head"]) == (0, 5)


def test_what_lies_around_is_a_head_and_a_network_without_blocks_is_told():
    # What an objective adds around the model learns as its head does.
    found, top = layer_depths({"model/block_00/a": 1, "model/stem/a": 1, "projector/a": 1})
    assert ([list(found[path]) for path in found], top) == ([[1], [0], [2]], 2)
    with pytest.raises(UserError, match="layer_decay: this model has no blocks or stages"):
        layer_depths({"conv0/kernel": 1, "head/kernel": 1})


def test_stacked_layers_have_the_rates_of_looped_ones():
    """The update of each layer, through the whole optimizer."""

    def rates(**fields):
        small = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "heads": 2, **fields}
        model = create_model("vit_tiny_patch16_224", num_classes=2, **small)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        axes = logical_axes(variables["params"])
        params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nn.unbox(variables)["params"])
        config = OptimConfig(name="sgd", momentum=0.0, layer_decay=0.5)
        optimizer = make_optimizer(config, lambda step: 1.0, params, axes)
        return optimizer.update(params, optimizer.init(params), params)[0]

    looped, stacked = rates(), rates(scan_layers=True)
    for index, factor in enumerate((0.125, 0.25, 0.5)):
        for tree in (looped[f"block_{index:02}"], stacked["blocks"]):
            leaf = tree["mlp"]["fc1"]["kernel"]
            leaf = leaf[index] if leaf.ndim == 3 else leaf
            np.testing.assert_allclose(leaf, -factor)
    assert float(stacked["patch_embed"]["kernel"].ravel()[0]) == -0.0625
    assert float(stacked["head"]["kernel"].ravel()[0]) == -1
    assert layer_factors(1.0, {"block_00/kernel": 1}) == {"block_00/kernel": (1.0,)}

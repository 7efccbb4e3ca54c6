"""Inception v3 against timm, live."""

import functools
import importlib

import flax.linen as nn
import jax
import numpy as np
import pytest
import tolerances
import torch
from flax import traverse_util
from parity.agreement import (
    assert_agrees,
    assert_every_tensor_has_its_place,
    assert_maps_agree,
    assert_trains_alike,
)

import scanmax
from scanmax.models.vision.inception_v3 import AuxiliaryHead
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert
from scanmax.testing import compare

pytestmark = pytest.mark.parity


def module_of(peers):
    """The file of timm, whose name in the package is that of a function in it."""
    return importlib.import_module(f"{peers.timm.models.__name__}.inception_v3")


def shortened(peers):
    """timm's model with one block of each kind: the repeated ones pass their input on."""
    timm = module_of(peers)

    def build(num_classes):
        model = timm.InceptionV3(num_classes=num_classes)
        for name in ("5c", "5d", "6c", "6d", "6e", "7c"):
            setattr(model, f"Mixed_{name}", torch.nn.Identity())
        # As wide as the last of its stage.
        conv = {"padding": 0, "norm_layer": "batchnorm2d", "norm_kwargs": {"eps": 1e-3}}
        block = functools.partial(timm.ConvNormAct, **conv)
        model.Mixed_5b = timm.InceptionA(192, pool_features=64, conv_block=block)
        return model

    return build


def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers):
    # Few pixels, in float64: a norm over them makes much of a rounding.
    run = peers.image_model(shortened(peers), 78, seed=3, dtype=torch.float64)
    fields = {"pooled_dims": (64,), "inner_dims": (128,), "last_depth": 1}
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model("inception_v3", num_classes=10, **fields, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run)
        assert_trains_alike(model, run)


def test_the_auxiliary_head_is_timms(peers):
    """On a map of 17 x 17, the one it reads of the published size."""
    timm = module_of(peers)
    torch.manual_seed(0)
    conv = {"padding": 0, "norm_layer": "batchnorm2d", "norm_kwargs": {"eps": 1e-3}}
    peer = timm.InceptionAux(768, 10, functools.partial(timm.ConvNormAct, **conv)).eval()
    maps = torch.randn(2, 768, 17, 17)
    with torch.no_grad():
        expected = peer(maps).numpy()
    tensors = {f"AuxLogits.{name}": x.numpy() for name, x in peer.state_dict().items()}
    whole = scanmax.create_model("inception_v3", num_classes=10, aux_logits=True)
    head = AuxiliaryHead(10, whole.conv)
    maps = maps.numpy().transpose(0, 2, 3, 1)
    shapes = nn.unbox(jax.eval_shape(lambda x: head.init(jax.random.key(0), x, False), maps))
    shapes = {name: {"aux": tree} for name, tree in shapes.items()}
    paths = {path: leaf.shape for path, leaf in named_leaves(shapes)}
    arrays, problems = convert(tensors, key_table(whole).rows, paths)
    assert not problems, problems
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    variables = {name: tree["aux"] for name, tree in variables.items()}
    compare.assert_relative(head.apply(variables, maps, False), expected, tolerances.PARITY)


def test_every_tensor_of_the_published_size_has_its_place(peers):
    assert_every_tensor_has_its_place(peers, "inception_v3")

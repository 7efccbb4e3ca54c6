"""VGG against timm, live."""

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


def small(peers, batch_norm):
    """timm's model with narrow stages and wide layers of 16 channels, whose width it fixes."""
    vgg = peers.timm.models.vgg

    def build(num_classes):
        layers = [8, "M", 12, 12, "M", 16, "M"]
        norm = torch.nn.BatchNorm2d if batch_norm else None
        model = vgg.VGG(layers, num_classes=num_classes, norm_layer=norm)
        model.pre_logits = vgg.ConvMlp(16, 16, 3, drop_rate=0.0)
        model.head = vgg.ClassifierHead(16, num_classes)
        return model

    return build


# Maps of 3 x 3 and more places than one for the wide layers, and of fewer than their kernel.
@pytest.mark.parametrize(("name", "size"), [("vgg16", 34), ("vgg16", 21), ("vgg16_bn", 27)])
def test_logits_gradients_maps_and_a_training_step_are_those_of_timm(peers, name, size):
    run = peers.image_model(small(peers, name == "vgg16_bn"), size, seed=3, dtype=torch.float64)
    fields = {"dims": (8, 12, 16), "depths": (1, 2, 1), "hidden_dim": 16, "hidden_size": 3}
    with jax.enable_x64(True):
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=10, **fields, **double)
        assert_agrees(model, run)
        assert_maps_agree(model, run)
        if name == "vgg16_bn":
            assert_trains_alike(model, run)


@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

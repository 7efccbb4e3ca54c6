"""ConvNeXt against timm, live."""

import pytest
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place

import scanmax

pytestmark = pytest.mark.parity


def test_logits_and_gradients_are_those_of_timm(peers):
    model = scanmax.create_model(
        "convnext_tiny", num_classes=10, depths=(1, 1, 1, 1), dims=(8, 12, 16, 32)
    )
    assert_agrees(model, peers.convnext(seed=11))


@pytest.mark.parametrize("name", scanmax.list_models(family="convnext"))
def test_every_tensor_of_every_published_size_has_its_place(peers, name):
    assert_every_tensor_has_its_place(peers, name)

"""ConvNeXt against timm, live."""

import jax
import numpy as np
import pytest
from parity.agreement import assert_agrees

import scanmax
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert

pytestmark = pytest.mark.parity


def test_logits_and_gradients_are_those_of_timm(peers):
    model = scanmax.create_model(
        "convnext_tiny", num_classes=10, depths=(1, 1, 1, 1), dims=(8, 12, 16, 32)
    )
    assert_agrees(model, peers.convnext(seed=11))


@pytest.mark.parametrize("name", scanmax.list_models(family="convnext"))
def test_every_tensor_of_every_published_size_has_its_place(peers, name):
    model, info = scanmax.create_model(name), scanmax.model_info(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), info.example())
    shapes = {path: leaf.shape for path, leaf in named_leaves(variables)}
    tensors = {
        key: np.broadcast_to(np.int8(0), shape) for key, shape in peers.state_shapes(name).items()
    }
    _, problems = convert(tensors, key_table(model).rows, shapes)
    assert not problems, problems

"""SqueezeBERT and ConvBERT against transformers, live."""

import math

import jax
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place

import scanmax
from scanmax.models.language import convbert, squeezebert

pytestmark = pytest.mark.parity

SIZES = {"vocab_size": 24, "dim": 16, "depth": 2, "heads": 4, "mlp_hidden": 24, "max_length": 12}
# A bias of the keys adds the same to all logits of a query.
VANISHING = r"params/block_\d\d/key/bias"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("squeezebert_base", {"embedding_dim": 16, "mlp_groups": 4}),
        ("convbert_medium_small", {"embedding_dim": 8, "mlp_groups": 2, "kernel_size": 3}),
    ],
)
def test_logits_and_gradients_are_those_of_transformers(peers, name, own):
    with jax.enable_x64(True):
        fields = {**SIZES, **own}
        run = peers.text_encoder(name.split("_")[0], seed=3, dtype=torch.float64, **fields)
        double = {"dtype": np.float64, "param_dtype": np.float64}
        model = scanmax.create_model(name, num_classes=3, **fields, **double)
        assert_agrees(model, run, VANISHING)


@pytest.mark.parametrize("name", sorted([*squeezebert.VARIANTS, *convbert.VARIANTS]))
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    model = scanmax.create_model(name)
    tensors = peers.text_encoder_shapes(name, model)
    assert_every_tensor_has_its_place(peers, name, tensors)
    assert scanmax.model_info(name).params == sum(math.prod(shape) for shape in tensors.values())

"""T5 against transformers, live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.agreement import assert_agrees, assert_every_tensor_has_its_place

import scanmax
from scanmax.models.generation import generate
from scanmax.models.weights import load_weights

pytestmark = pytest.mark.parity

SIZES = {"vocab_size": 24, "dim": 16, "head_dim": 6, "mlp_hidden": 20, "heads": 3}
SMALL = {**SIZES, "encoder_depth": 2, "decoder_depth": 2, "buckets": 8, "max_distance": 24}


@pytest.mark.parametrize("name", ["t5_small", "t5_v1_1_small"])
def test_logits_and_gradients_are_those_of_transformers(peers, name):
    """Of sources longer than the distances that have buckets of their own."""
    with jax.enable_x64(True):
        run = peers.t5("v1_1" in name, seed=3, dtype=torch.float64)
        double = {"dtype": np.float64, "param_dtype": np.float64}
        assert_agrees(scanmax.create_model(name, **SMALL, **double), run)


def test_greedy_answers_are_those_of_transformers(peers):
    """By the cache, and with the shorter source padded on its left."""
    run, expected = peers.t5_generation(new_tokens=20, seed=11)
    model = scanmax.create_model("t5_small", **SMALL)
    variables = load_weights(model, run.weights)
    sources = [row[row != 0] for row in run.inputs]
    found = generate(model, variables, sources, max_new_tokens=20, temperature=0)
    for source, row, answer in zip(sources, found, expected):
        np.testing.assert_array_equal(row[: len(source)], source)
        # Theirs begins with the start token.
        np.testing.assert_array_equal(row[len(source) :], answer[1:])
    padded = generate(model, variables, jnp.asarray(run.inputs), max_new_tokens=20, temperature=0)
    np.testing.assert_array_equal(padded[:, run.inputs.shape[1] :], expected[:, 1:])


@pytest.mark.parametrize("name", ["t5_base", "t5_v1_1_small"])
def test_every_tensor_of_a_published_size_has_its_place(peers, name):
    tensors = peers.t5_shapes(scanmax.create_model(name))
    assert_every_tensor_has_its_place(peers, name, tensors)

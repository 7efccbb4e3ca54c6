"""Mamba language models against transformers, live."""

import jax.numpy as jnp
import numpy as np
import pytest
from parity.agreement import assert_agrees

import scanmax
from scanmax.models.generation import generate
from scanmax.models.language.mamba import VARIANTS
from scanmax.models.weights import load_weights

pytestmark = pytest.mark.parity

SMALL = {"vocab_size": 24, "dim": 16, "depth": 2, "d_state": 4}


@pytest.mark.parametrize(("length", "tied"), [(23, True), (5, False)])
def test_logits_and_gradients_are_those_of_transformers(peers, length, tied):
    model = scanmax.create_model("mamba_130m", tied=tied, **SMALL)
    assert_agrees(model, peers.mamba(length, tied, seed=11))


def test_greedy_generation_is_that_of_transformers(peers):
    run, tokens = peers.mamba_generation(new_tokens=20, seed=11)
    model = scanmax.create_model("mamba_130m", **SMALL)
    variables = load_weights(model, run.weights)
    generated = generate(
        model, variables, jnp.asarray(run.inputs), max_new_tokens=20, temperature=0
    )
    np.testing.assert_array_equal(generated, tokens)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_parameters_are_as_many_as_transformers_counts(peers, name):
    variant = VARIANTS[name]
    counted = peers.parameters_of_mamba(**variant.config, vocab_size=50280)
    assert variant.params == counted

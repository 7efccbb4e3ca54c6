"""Mamba-2 language models against transformers, live."""

import jax.numpy as jnp
import numpy as np
import pytest
from parity.agreement import assert_agrees

import scanmax
from scanmax.models.generation import generate
from scanmax.models.weights import load_weights

pytestmark = pytest.mark.parity

SMALL = {"vocab_size": 24, "dim": 16, "depth": 2, "heads": 4, "state_size": 8}


@pytest.mark.parametrize(("groups", "length", "tied"), [(2, 37, True), (1, 16, False)])
def test_logits_and_gradients_are_those_of_transformers(peers, groups, length, tied):
    model = scanmax.create_model("mamba2_130m", groups=groups, tied=tied, **SMALL)
    assert_agrees(model, peers.mamba2(groups, length, tied, seed=11))


def test_limits_of_the_step_size_are_those_of_transformers(peers):
    """Of a whole pass: the single steps of transformers 5 forget them, ours do not."""
    limits = (0.02, 0.05)
    model = scanmax.create_model("mamba2_130m", dt_limit=limits, **SMALL)
    assert_agrees(model, peers.mamba2(seed=11, time_step_limit=limits))


def test_greedy_generation_is_that_of_transformers(peers):
    run, tokens = peers.mamba2_generation(new_tokens=20, seed=11)
    model = scanmax.create_model("mamba2_130m", groups=2, **SMALL)
    variables = load_weights(model, run.weights)
    generated = generate(
        model, variables, jnp.asarray(run.inputs), max_new_tokens=20, temperature=0
    )
    np.testing.assert_array_equal(generated, tokens)

"""The language model's loss in pieces: the numbers of that on logits, and less room."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import toy_config

import scanmax
from scanmax.errors import UserError
from scanmax.testing import compare
from scanmax.train.config import ObjectiveConfig
from scanmax.train.objectives.language_model import LanguageModel

SIZES = {"vocab_size": 37, "dim": 8, "depth": 1, "heads": 2}
BATCH = {"tokens": np.random.default_rng(0).integers(0, 37, (3, 8)).astype(np.int32)}


def losses(fused, tied, **fields):
    """The training losses, the gradient of their mean, and what evaluation says."""
    wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    model = scanmax.create_model("lm_tiny", **SIZES, **wide, tied=tied)
    config = ObjectiveConfig(name="language_model", label_smoothing=0.1, weight=0.5, **fields)
    objective = LanguageModel(model=model, config=config, fused=fused)
    objective.check()
    variables = jax.jit(objective.init)(jax.random.key(0), BATCH)

    def mean(variables):
        found = objective.apply(variables, BATCH, train=True)
        return found.values["label"].mean(), (found.values, found.metrics)

    (_, found), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(variables)
    evaluate = jax.jit(lambda variables: objective.apply(variables, BATCH, method="evaluate"))
    return found, gradient, evaluate(variables)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_in_pieces_is_the_loss(tied):
    with jax.enable_x64(True):
        compare.assert_relative(losses(True, tied), losses(False, tied), 1e-12)


def test_pieces_are_taken_of_wide_vocabularies_alone():
    def taken(fused=None, loss="softmax_cross_entropy", **sizes):
        model = scanmax.create_model("lm_tiny", **{**SIZES, **sizes})
        config = ObjectiveConfig(name="language_model", loss=loss)
        return LanguageModel(model=model, config=config, fused=fused).in_pieces

    assert taken(vocab_size=64)
    assert not taken(vocab_size=63)
    assert taken(fused=True)
    assert not taken(fused=False, vocab_size=64)
    assert not taken(loss="stablemax_cross_entropy", vocab_size=64)


def test_what_needs_the_logits_is_refused():
    from scanmax.train.build import make_objective

    model = scanmax.create_model("lm_tiny", **SIZES)

    config = toy_config(
        objective=ObjectiveConfig(
            name="language_model", loss="stablemax_cross_entropy", kwargs={"fused": True}
        )
    )
    with pytest.raises(UserError, match=r"'fused'.*=True: config\.objective\.loss='stablemax"):
        make_objective(config, model, types.SimpleNamespace(num_classes=37), 1)


def test_no_logits_stand_in_a_step():
    model = scanmax.create_model("lm_tiny", **{**SIZES, "vocab_size": 4096})
    batch = {"tokens": jax.ShapeDtypeStruct((4, 65), jnp.int32)}

    def room(fused):
        objective = LanguageModel(model, ObjectiveConfig(name="language_model"), fused=fused)
        variables = jax.eval_shape(objective.init, jax.random.key(0), batch)
        step = jax.grad(lambda v, b: objective.apply(v, b, train=True).values["label"].mean())
        compiled = jax.jit(step).lower(variables, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert room(False) > 4 * 64 * 4096 * 4
    assert room(True) < room(False) / 3

"""SqueezeBERT: the suite of every model, what groups and padding are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables

from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.parts.grouped_linear import GroupedDense
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 11, "dim": 8, "embedding_dim": 8, "depth": 2, "heads": 2, "mlp_hidden": 12}
TINY |= {"attention_groups": 2, "mlp_groups": 2, "max_length": 9, "num_classes": 3}


class SqueezeBertSuite(ModelSuite):
    family = "squeezebert"
    small = (ModelCase("squeezebert_base", TINY, input_size=(5,), other_inputs=((1,), (9,))),)
    # A bias of the keys adds the same to all logits of a query.
    vanishing = r"block(_\d\d|s)/key/bias"


def test_groups_are_a_quarter_of_the_weights_and_products():
    """The paper's counts at 128 tokens: 7.42 of 22.5 thousand million operations, BERT's."""
    layers, dense = 12, {"attention_groups": 1, "mlp_groups": 1}
    matrices = 3 * 768 * 768 + 2 * 768 * 3072
    whole = jax.eval_shape(
        create_model("squeezebert_base", scan_layers=True, **dense).init,
        jax.random.key(0),
        model_info("squeezebert_base").example(),
    )
    dense_params = sum(leaf.size for leaf in jax.tree.leaves(whole))
    assert dense_params - model_info("squeezebert_base").params == layers * matrices * 3 // 4
    products = default_multiply_adds("squeezebert_base")
    assert 2 * products / 1e9 == pytest.approx(7.42, rel=0.01)
    assert 2 * (products + 128 * layers * matrices * 3 // 4) / 1e9 == pytest.approx(22.5, rel=0.01)


def test_a_grouped_map_is_a_block_diagonal_matrix():
    layer = GroupedDense(6, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4)), jnp.float32)
    params = drawn_variables(layer, x)["params"]
    matrix = np.zeros((4, 6))
    for group in range(2):
        rows, columns = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        matrix[rows, columns] = params["kernel"][group]
    np.testing.assert_allclose(
        layer.apply({"params": params}, x), x @ matrix + params["bias"], rtol=1e-5
    )
    with pytest.raises(ValueError, match="groups=3 must divide the 4 features"):
        jax.eval_shape(GroupedDense(6, 3).init, jax.random.key(0), x)


def test_padding_changes_nothing_and_segments_do():
    model = create_model("squeezebert_base", **TINY)
    words = [3, 5, 1, 9]
    tokens = jnp.array([words + [0] * 5])
    variables = drawn_variables(model, tokens, scale=0.3)
    apply = jax.jit(model.apply)
    logits = apply(variables, tokens)
    np.testing.assert_allclose(logits, apply(variables, jnp.array([words])), rtol=1e-4, atol=1e-5)
    second = apply(variables, tokens, segments=jnp.array([[0, 0, 1, 1] + [0] * 5]))
    assert np.abs(logits - second).max() > 1e-4
    with pytest.raises(ValueError, match="max_length=9 places"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 10), int))

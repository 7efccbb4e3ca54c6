"""Heterogeneous attention against its equations, and what its users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class HeterogeneousSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)
    required_batch_ranks = (0, 1)

    def make_args(self, rng, case):
        shape = (*case.batch, case.length, 3)
        return {
            "query": rng.normal(size=(*shape, 5)),
            "key": rng.normal(size=(*shape, 5)),
            "value": rng.normal(size=(*shape, 4)),
            "alpha": rng.uniform(size=case.alpha),
        }


class HeterogeneousAttentionTest(HeterogeneousSuite):
    op = ops.heterogeneous_attention
    reference = reference.heterogeneous_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(length=7, batch=(2,), alpha=(3,), full=True, forms=("parallel",)),
        OpCase(length=7, alpha=(7, 1), forms=("chunked",), options={"epsilon": 0.1}),
        OpCase(length=1, alpha=(), forms=("parallel",)),
    )
    errors = (
        ({"alpha": lambda x: x[:2]}, ValueError, r"alpha has shape \(2,\)"),
        ({"key": lambda x: x[:, :, :1]}, ValueError, "key has shape"),
    )

    def test_the_ends_are_the_two_kinds(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 4)))
        y = ops.heterogeneous_attention(x, x, x, jnp.array([1.0, 0.0]))
        by_relu = ops.dot_product_attention(x, x, x, normalizer="relu_softmax")
        compare.assert_relative(y[:, 0], by_relu[:, 0], 1e-12)
        logits = jnp.einsum("thk,shk->hts", x, x) / 2
        compare.assert_relative(y[:, 1], logits[1] @ x[:, 1] / 6, 1e-12)

    def test_a_row_of_negative_logits_attends_to_nothing(self):
        x = jnp.ones((3, 1, 2))
        y, pull_back = jax.vjp(lambda q: ops.heterogeneous_attention(q, -x, x, jnp.ones(1)), x)
        chex.assert_trees_all_equal(y, jnp.zeros_like(y))
        chex.assert_tree_all_finite(pull_back(y))


class HeterogeneousAttentionMatrixTest(HeterogeneousSuite):
    op = ops.heterogeneous_attention_matrix
    reference = reference.heterogeneous_attention_matrix
    sequence = ()
    cases = (
        OpCase(length=5, batch=(2,), alpha=(5, 3), full=True),
        OpCase(length=4, alpha=()),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args

"""Length-scaled cosine attention against its equation, and what its users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.attention.cosine import unit_vectors
from scanmax.testing import OpCase, OpSuite, compare


class CosineSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)
    required_batch_ranks = (1, 2)

    def make_args(self, rng, case):
        batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
        args = {
            # long enough vectors for finite differences
            "query": 3 * rng.normal(size=(*batch, T, 4, 5)),
            "key": 3 * rng.normal(size=(*batch, S, 2, 5)),
            "value": rng.normal(size=(*batch, S, 2, 3)),
            "temperature": rng.normal(size=4),
        }
        if getattr(case, "embedding", False):
            args["query_embedding"] = rng.normal(size=(4, 5))
            args["bias"] = rng.normal(size=(4, T, S))
        if hasattr(case, "counts"):
            size = (*batch, T) if case.counts is True else case.counts
            args["num_keys"] = rng.integers(1, 12, size=size)
        if hasattr(case, "key_lengths"):
            args["key_value_seq_lengths"] = np.resize(case.key_lengths, batch).astype(np.int32)
        return args


class LengthScaledCosineAttentionTest(CosineSuite):
    op = ops.length_scaled_cosine_attention
    reference = reference.length_scaled_cosine_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(
            length=7,
            source=9,
            batch=(2,),
            embedding=True,
            counts=True,
            forms=("parallel",),
            full=True,
        ),
        OpCase(
            length=7,
            batch=(2,),
            key_lengths=(7, 3),
            forms=("chunked",),
            options={"is_causal": True},
        ),
        OpCase(
            length=1,
            batch=(1, 2),
            counts=(1,),
            forms=("parallel",),
            options={"normalizer": "stablemax"},
        ),
    )
    errors = (
        ({"temperature": lambda x: x[:3]}, ValueError, r"temperature has shape \(3,\)"),
        ({"query_embedding": lambda x: x[:, :3]}, ValueError, "query_embedding has shape"),
        ({"num_keys": lambda x: x[:, :3]}, ValueError, r"num_keys has shape \(2, 3\)"),
    )


class LengthScaledCosineAttentionMatrixTest(CosineSuite):
    op = ops.length_scaled_cosine_attention_matrix
    reference = reference.length_scaled_cosine_attention_matrix
    sequence = ()
    cases = (
        OpCase(length=7, source=9, batch=(2,), embedding=True, counts=True, full=True),
        OpCase(length=7, batch=(2,), key_lengths=(7, 3), options={"is_causal": True}),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


class CosineTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_a_vector_of_zeros_stays_zero_with_finite_gradient(self):
        x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        chex.assert_trees_all_close(unit_vectors(x), jnp.array([[0.0, 0.0], [0.6, 0.8]]))
        chex.assert_tree_all_finite(jax.grad(lambda x: unit_vectors(x)[:, 0].sum())(x))

    def test_the_length_of_queries_and_keys_does_not_matter(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 2, 4)))
        tau = jnp.array([0.3, 1.0])
        compare.assert_relative(
            ops.length_scaled_cosine_attention(5 * x, 0.1 * x, x, tau),
            ops.length_scaled_cosine_attention(x, x, x, tau),
            1e-12,
        )

    def test_as_many_keys_again_change_nothing_but_the_scale(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, 4)))
        twice, tau = jnp.concatenate([x, x]), jnp.array([1.0])
        y = ops.length_scaled_cosine_attention(x, twice, twice, tau, num_keys=6)
        compare.assert_relative(y, ops.length_scaled_cosine_attention(x, x, x, tau), 1e-12)


class CosineSupportAttentionTest(OpSuite):
    op = ops.cosine_support_attention
    reference = reference.cosine_support_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(length=7, batch=(2,), masked=True, full=True, options={"scale": 3.0}),
        OpCase(length=1),
    )
    errors = (
        ({"query": lambda x: x[..., 1:]}, ValueError, r"query has shape .*\[\*B, T, D\]"),
        ({"labels": lambda x: x[..., 1:, :]}, ValueError, r"labels has shape .*\[\*B, S, C\]"),
        ({"mask": lambda x: x[..., 1:]}, ValueError, r"mask has shape .*\[\*B, S\]"),
    )

    def make_args(self, rng, case):
        args = {
            "query": rng.normal(size=(*case.batch, case.length, 4)),
            "support": rng.normal(size=(*case.batch, 5, 4)),
            "labels": rng.uniform(size=(*case.batch, 5, 3)),
        }
        if getattr(case, "masked", False):
            args["mask"] = np.resize([True, False, True, True, False], (*case.batch, 5))
        return args

    def poison(self, arrays, case):
        if "mask" not in arrays:
            return arrays
        hidden = ~arrays["mask"][..., None]
        return arrays | {
            name: np.where(hidden, np.nan, arrays[name]) for name in ("support", "labels")
        }


def test_with_one_shot_a_class_it_is_the_softmax_of_cosines():
    rng = np.random.default_rng(0)
    query, support = rng.normal(size=(2, 3, 4))
    y = ops.cosine_support_attention(*(jnp.asarray(x) for x in (query, support)), jnp.eye(3))
    sizes = np.linalg.norm(query, axis=-1)[:, None] * np.linalg.norm(support, axis=-1)
    expected = jax.nn.softmax(jnp.asarray(query @ support.T / sizes), -1)
    np.testing.assert_allclose(y, expected, rtol=1e-5)

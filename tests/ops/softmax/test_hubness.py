"""Inverted softmax over banks, and how hubs are counted."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class BankSuite(OpSuite):
    """Similarities in [-1, 1] of 4 queries to 6 items, and banks of `rows`, else of 5 and 7."""

    __test__ = False
    banks = (("bank", 5),)

    def make_args(self, rng, case):
        rows = getattr(case, "rows", None)
        sizes = (("similarity", 4), *((name, rows or n) for name, n in self.banks))
        return {name: rng.uniform(-1, 1, (*case.batch, n, 6)) for name, n in sizes}


class InvertedSoftmaxTest(BankSuite):
    op = ops.inverted_softmax
    reference = reference.inverted_softmax
    cases = (
        OpCase(batch=(2,), options={"beta": 3.0}, full=True),
        OpCase(options={"dynamic": True, "log": True}, full=True),
        OpCase(batch=(2, 3), options={"dynamic": True, "top_k": 2}),
        OpCase(batch=(2,), rows=70, options={"beta": 3.0}, full=True),
    )
    errors = (
        ({"bank": lambda x: x[..., :5]}, ValueError, r"bank has shape \(2, 5, 5\); expected"),
        ({"bank": lambda x: x[..., :0, :]}, ValueError, "expected at least one row"),
        ({"bank": lambda x: x.astype(jnp.int32)}, ValueError, "bank has dtype int32"),
        ({"top_k": 7}, ValueError, "top_k=7; expected between 1 and the 6"),
    )

    def test_no_overflow(self):
        similarity = jnp.asarray([[1e4, -1e4]])
        y = ops.inverted_softmax(similarity, similarity, log=True)
        chex.assert_tree_all_finite(y)

    def test_what_overflows_in_double_is_summed_in_blocks_of_rows(self):
        def plain(similarity, bank, beta):
            totals = jax.nn.logsumexp(beta * bank, -2, keepdims=True)
            return jnp.sin(beta * similarity - totals).sum()

        def ours(similarity, bank, beta):
            return jnp.sin(ops.inverted_softmax(similarity, bank, beta=beta, log=True)).sum()

        rng = np.random.default_rng(0)
        with jax.enable_x64(True):
            for rows, beta in ((70, 2000.0), (32, -2000.0), (5, 2000.0)):
                arrays = [jnp.asarray(rng.uniform(-1, 1, (2, n, 6))) for n in (4, rows)]
                found, expected = (
                    jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*arrays, jnp.asarray(beta))
                    for f in (ours, plain)
                )
                chex.assert_trees_all_close(found, expected, rtol=1e-9)

    def test_a_column_too_small_or_empty_leaves_the_others_right(self):
        bank = jnp.asarray([[1.0, -4000.0, -jnp.inf], [0.5, -4001.0, -jnp.inf]])  # 0 in double
        y = ops.inverted_softmax(bank[:1], bank, beta=1.0, log=True)
        expected = -np.log1p(np.exp(np.array([-0.5, -1.0])))
        np.testing.assert_allclose(y[0, :2], expected, rtol=1e-6)

    def test_shards_of_a_batch_have_the_gradients_of_the_whole(self):
        self.enterContext(jax.enable_x64(True))
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rng = np.random.default_rng(0)
        arrays = [jnp.asarray(rng.uniform(-1, 1, (4, n, 6))) for n in (5, 64)]
        spec = jax.sharding.PartitionSpec("data")
        sharded = jax.shard_map(ops.inverted_softmax, mesh=mesh, in_specs=spec, out_specs=spec)

        def gradients(op):
            return jax.jit(jax.grad(lambda *a: jnp.sum(op(*a) ** 2), (0, 1)))(*arrays)

        chex.assert_trees_all_close(
            gradients(sharded), gradients(ops.inverted_softmax), rtol=1e-10, atol=1e-10
        )


class DualInvertedSoftmaxTest(BankSuite):
    op = ops.dual_inverted_softmax
    reference = reference.dual_inverted_softmax
    banks = (("query_bank", 5), ("gallery_bank", 2))
    cases = (
        OpCase(batch=(2,), options={"query_beta": 2.0, "gallery_beta": 3.0}, full=True),
        OpCase(batch=(3,), options={"dynamic": True}),
        OpCase(batch=(3,), options={"dynamic": True, "inactive": "one"}),
    )
    errors = (({"inactive": "zero"}, ValueError, "inactive='zero'"),)


class HubnessTest(chex.TestCase):
    def test_equals_scipy_and_its_equation(self):
        with jax.enable_x64(True):
            similarity = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50, 20)))
            y = ops.hubness(similarity, k=3)
            compare.assert_relative(y, reference.hubness(similarity, k=3), 1e-12)
            counts = ops.k_occurrence(similarity, k=3)
            compare.assert_relative(counts, reference.k_occurrence(similarity, k=3), 0.0)
            compare.assert_relative(y, scipy.stats.skew(np.asarray(counts), axis=-1), 1e-12)
            np.testing.assert_array_equal(counts.sum(-1), 150)
        with self.assertRaisesRegex(ValueError, "k=21"):
            ops.k_occurrence(similarity, k=21)

    def test_dynamic_leaves_queries_alone_that_find_no_hub(self):
        similarity = jnp.asarray([[0.9, 0.1, 0.2], [0.1, 0.9, 0.8]])
        bank = jnp.asarray([[0.0, 1.0, 0.0]])  # item 1 is the hub
        y = ops.inverted_softmax(similarity, bank, dynamic=True)
        np.testing.assert_array_equal(y[0], similarity[0])
        self.assertEqual(int(y[1].argmax()), 2)
        twice = ops.dual_inverted_softmax(similarity, bank, bank, dynamic=True)
        np.testing.assert_allclose(twice[0], similarity[0] ** 2, rtol=1e-6)
        once = ops.dual_inverted_softmax(similarity, bank, bank, dynamic=True, inactive="one")
        np.testing.assert_array_equal(once[0], similarity[0])

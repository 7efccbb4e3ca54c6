"""Reorganised and merged tokens against lists of pairs, and what must hold of sizes and rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


def tokens(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rows_that_sum_to_one(shape, seed=1):
    scores = np.random.default_rng(seed).uniform(0.1, 1.0, size=shape)
    return scores / scores.sum(-1, keepdims=True)


class TokenReorganizeTest(OpSuite):
    op = ops.token_reorganize
    reference = reference.token_reorganize
    cases = (
        OpCase(length=7, batch=(2,), full=True, options={"keep_rate": 0.5, "normalize": True}),
        OpCase(length=9, options={"keep_rate": 0.4, "prefix_tokens": 2}),
        OpCase(length=6, batch=(1, 2), options={"keep_rate": 0.3, "fuse": False}),
    )
    errors = (
        ({"keep_rate": 0.0}, ValueError, r"expected a rate in \(0, 1\]"),
        ({"prefix_tokens": 7}, ValueError, "leaves none"),
        ({"class_attention": lambda z: z[..., 1:]}, ValueError, "class_attention has shape"),
    )

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, case.length, 3)),
            "class_attention": rng.uniform(size=(*case.batch, 2, case.length)),
        }

    def test_keeping_all_changes_nothing(self):
        x = jnp.asarray(tokens((2, 7, 3)))
        y = ops.token_reorganize(x, jnp.ones((2, 4, 7)), keep_rate=0.99)
        chex.assert_trees_all_equal(y, x)

    def test_what_the_class_token_reads_is_kept(self):
        # Weighted by the attention alone, the sum over all tokens before and after is the same.
        x, attention = jnp.asarray(tokens((7, 3))), jnp.asarray(rows_that_sum_to_one((1, 7)))
        y = ops.token_reorganize(x, attention, keep_rate=0.4)
        weights = jnp.sort(attention[0, 1:])[::-1]
        expected = attention[0, 1:] @ x[1:]
        chex.assert_trees_all_close(weights[:3] @ y[1:4] + y[4], expected, rtol=1e-12)


def tome_by_hand(key, x, size, r):
    """ToMe with a class token, pair by pair in numpy: merged tokens and sizes."""
    key = key / np.linalg.norm(key, axis=-1, keepdims=True)
    evens, odds = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    partner = {i: max(odds, key=lambda j: key[i] @ key[j]) for i in evens[1:]}
    chosen = sorted(partner, key=lambda i: -(key[i] @ key[partner[i]]))[:r]
    held = {j: [j, *(i for i in chosen if partner[i] == j)] for j in odds}
    held |= {i: [i] for i in evens if i not in chosen}
    order = [*(i for i in evens if i not in chosen), *odds]
    sizes = np.array([sum(size[k] for k in held[g]) for g in order])
    merged = [sum(size[k] * x[k] for k in held[g]) / s for g, s in zip(order, sizes)]
    return np.array(merged), sizes


class MatchingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters((9, 4), (8, 1), (6, 2))
    def test_one_direction_by_similarity_is_tome(self, length, r):
        key, x = tokens((2, length, 5))
        size = np.random.default_rng(3).integers(1, 5, length).astype(float)
        merged, sizes = tome_by_hand(key, x, size, r)
        groups = ops.bipartite_soft_matching(
            key, None, size, remove=r, temperatures=(1.0, None, None), bidirectional=False
        )
        options = {"num_groups": length - r}
        chex.assert_trees_all_close(
            ops.merge_tokens(x, groups, size, **options), merged, rtol=1e-12
        )
        summed = ops.merge_tokens(size[:, None], groups, **options, reduce="sum")[:, 0]
        chex.assert_trees_all_close(summed, sizes)

    @parameterized.parameters(
        ((9,), 4, {}),
        ((2, 8), 3, {"protected": 2}),
        ((2, 11), 4, {"protected": 3, "bidirectional": False}),
        ((7,), 3, {"protected": 0, "temperatures": (None, 1.0, 2.0)}),
        ((1, 3, 6), 1, {"temperatures": (2.0, 1.0, None)}),
        ((5,), 0, {}),
    )
    def test_groups_equal_the_reference(self, shape, remove, options):
        metric = jnp.asarray(tokens((*shape, 4)))
        importance, size = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1, (2, *shape)))
        options = {"remove": remove, **options}
        groups = ops.bipartite_soft_matching(metric, importance, size, **options)
        expected = reference.bipartite_soft_matching(metric, importance, size, **options)
        chex.assert_trees_all_equal(groups, expected)
        self.assertEqual(groups.dtype, jnp.int32)
        for row in np.asarray(groups).reshape(-1, shape[-1]):
            self.assertEqual(sorted(set(row)), list(range(shape[-1] - remove)))
            protected = options.get("protected", 1)
            self.assertEqual(list(row[:protected]), list(range(protected)))
            self.assertFalse(set(row[protected:]) & set(range(protected)), "a protected group grew")

    def test_errors(self):
        x = jnp.ones((7, 2))
        for options, pattern in (
            ({"remove": 4}, "at most 3"),
            ({"remove": -1}, "at most 3"),
            ({"remove": 1, "temperatures": (0.0, 1.0, 1.0)}, "three positive numbers"),
            ({"remove": 1, "size": jnp.ones(6)}, r"size has shape \(6,\)"),
            ({"remove": 1, "protected": -1}, "is negative"),
        ):
            with self.assertRaisesRegex(ValueError, pattern):
                ops.bipartite_soft_matching(x, **options)

    def test_it_is_traced_once_for_equal_shapes(self):
        run = jax.jit(
            chex.assert_max_traces(lambda x: ops.bipartite_soft_matching(x, remove=3), n=1)
        )
        groups = [run(jnp.asarray(tokens((9, 4), seed))) for seed in range(3)]
        self.assertTrue(any((a != groups[0]).any() for a in groups), "other tokens, other groups")


class MergeTokensTest(OpSuite):
    op = ops.merge_tokens
    reference = reference.merge_tokens
    differentiable = ("x",)  # the weights take no gradient
    cases = (
        OpCase(length=5, batch=(2,), full=True, weighted=True, options={"num_groups": 3}),
        OpCase(length=5, weighted=False, options={"num_groups": 3, "reduce": "max"}),
        OpCase(length=4, batch=(1, 2), weighted=True, options={"num_groups": 3, "reduce": "sum"}),
    )
    errors = (
        ({"reduce": "min"}, ValueError, "'mean', 'sum', 'max'"),
        ({"groups": lambda z: z[..., 1:]}, ValueError, "groups has shape"),
        ({"groups": lambda z: z.astype(jnp.float32)}, ValueError, "expected integers"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length)
        groups = np.broadcast_to([0, 2, 1, 2, 0][: case.length], shape).astype(np.int32)
        weights = rng.uniform(0.5, 2, size=shape) if case.weighted else None
        return {"x": rng.normal(size=(*shape, 3)), "groups": groups, "weights": weights}


class MergeAttentionTest(OpSuite):
    op = ops.merge_attention
    reference = reference.merge_attention
    differentiable = ("attention",)
    cases = (
        OpCase(length=5, batch=(2,), full=True, options={"num_groups": 3}),
        OpCase(length=4, options={"num_groups": 3}),
    )
    errors = (({"attention": lambda z: z[..., 1:]}, ValueError, r"expected \[\*B, H, T, T\]"),)

    def make_args(self, rng, case):
        shape = (*case.batch, case.length)
        groups = np.broadcast_to([0, 2, 1, 2, 0][: case.length], shape).astype(np.int32)
        return {
            "attention": rng.normal(size=(*case.batch, 2, case.length, case.length)),
            "groups": groups,
            "weights": rng.uniform(0.5, 2, size=shape),
        }


class FuseTokensTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.x = jnp.asarray(tokens((2, 9, 4)))
        self.attention = jnp.asarray(rows_that_sum_to_one((2, 3, 9, 9)))
        self.size = jnp.asarray(np.random.default_rng(2).integers(1, 4, (2, 9)).astype(float))

    @parameterized.parameters(
        {}, {"pooling": "size", "bidirectional": False}, {"pooling": "mean", "protected": 2}
    )
    def test_tokens_attention_and_gradients_equal_the_reference(self, **options):
        options = {"remove": 3, **options}

        def run(module, x, attention):
            if module is ops:
                return ops.fuse_tokens(x, attention, self.size, **options)
            return reference.fuse_tokens(x, attention, self.size, **options)

        results = [
            jax.vjp(lambda *z, m=m: run(m, *z), self.x, self.attention) for m in (ops, reference)
        ]
        chex.assert_trees_all_close(results[0][0], results[1][0], rtol=1e-12)
        cotangent = jax.tree.map(
            lambda z: jnp.cos(jnp.arange(1.0 * z.size)).reshape(z.shape), results[0][0]
        )
        ours, theirs = (pull(cotangent) for _, pull in results)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-10, atol=1e-12)

    def test_rounds_keep_the_count_of_tokens_and_rows_that_sum_to_one(self):
        x, attention, size = self.x, self.attention, None
        for remove in (3, 2, 1):
            x, attention, size = ops.fuse_tokens(x, attention, size, remove=remove)
            chex.assert_trees_all_close(size.sum(-1), jnp.full(2, 9.0))
            chex.assert_trees_all_close(attention.sum(-1), jnp.ones(attention.shape[:-1]))
        chex.assert_shape((x, attention), [(2, 3, 4), (2, 3, 3, 3)])

    def test_no_removal_changes_nothing(self):
        x, attention, size = ops.fuse_tokens(self.x, self.attention, self.size, remove=0)
        chex.assert_trees_all_close((x, attention), (self.x, self.attention), rtol=1e-15)
        chex.assert_trees_all_equal(size, self.size)

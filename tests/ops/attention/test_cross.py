"""Rollout, global-local, pair-wise and conditional cross-attention against their equations."""

import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class AttentionRolloutTest(OpSuite):
    op = ops.attention_rollout
    reference = reference.attention_rollout
    cases = (
        OpCase(length=4, batch=(2,), heads=(3, 1, 2), options={"num_queries": 2}, full=True),
        OpCase(length=3, heads=(2,)),
        OpCase(length=1, batch=(1, 2), heads=(1, 1)),
    )
    errors = (
        ({"num_queries": 5}, ValueError, "num_queries=5: expected 1 to T = 4"),
        ({"matrices": lambda m: m[:0]}, ValueError, "matrices is empty"),
        ({"matrices": lambda m: [m[0], m[1][..., :3]]}, ValueError, r"matrices\[1\] has shape"),
        ({"matrices": lambda m: [m[0][..., :3]]}, ValueError, r"matrices\[0\] has shape"),
    )

    def make_args(self, rng, case):
        shape = (case.length, case.length)
        matrices = [rng.random(size=(*case.batch, heads, *shape)) for heads in case.heads]
        return {
            "matrices": tuple(m / m.sum(-1, keepdims=True) for m in matrices),
            "residual": np.asarray(0.3),
        }


class CrossSuite(OpSuite):
    __test__ = False

    def make_args(self, rng, case):
        T, S, (H, G) = case.length, case.source, case.heads
        return {
            "query": rng.normal(size=(*case.batch, T, H, 3)),
            "key": rng.normal(size=(*case.batch, S, G, 3)),
            "value": rng.normal(size=(*case.batch, S, G, 2)),
        }


class GlobalLocalCrossAttentionTest(CrossSuite):
    op = ops.global_local_cross_attention
    reference = reference.global_local_cross_attention
    differentiable = ("query", "key", "value")
    cases = (
        OpCase(
            length=6,
            source=5,
            batch=(2,),
            heads=(4, 2),
            options={"num_queries": 3, "prefix_tokens": 1},
            full=True,
        ),
        OpCase(length=4, source=4, heads=(1, 1), options={"num_queries": 4}),
    )
    errors = (
        ({"num_queries": 7}, ValueError, "num_queries=7: expected 1 to T = 6"),
        ({"prefix_tokens": 4}, ValueError, "num_queries=3: expected 4 to T = 6"),
        ({"scores": lambda x: x[..., :5]}, ValueError, r"scores has shape \(2, 5\)"),
    )

    def make_args(self, rng, case):
        scores = rng.permuted(np.tile(np.arange(case.length), (*case.batch, 1)), axis=-1)
        return {**super().make_args(rng, case), "scores": scores.astype(float)}


class PairwiseCrossAttentionTest(CrossSuite):
    op = ops.pairwise_cross_attention
    reference = reference.pairwise_cross_attention
    cases = (
        OpCase(
            length=3,
            source=4,
            others=5,
            batch=(2,),
            heads=(4, 2),
            masked=True,
            options={"form": "chunked"},
            full=True,
        ),
        OpCase(length=2, source=2, others=2, heads=(1, 1), masked=False),
    )
    errors = (
        ({"other_key": lambda x: x[..., :2]}, ValueError, r"other_key has shape \(2, 5, 2, 2\)"),
        ({"other_value": lambda x: x[:, :4]}, ValueError, r"other_value has shape \(2, 4, 2, 2\)"),
        ({"other_mask": lambda x: x[:, :4]}, ValueError, r"other_mask has shape \(2, 4\)"),
    )

    def make_args(self, rng, case):
        S, G = case.others, case.heads[1]
        mask = rng.random((*case.batch, S)) < 0.5
        return {
            **super().make_args(rng, case),
            "other_key": rng.normal(size=(*case.batch, S, G, 3)),
            "other_value": rng.normal(size=(*case.batch, S, G, 2)),
            "other_mask": mask if case.masked else None,
        }

    def poison(self, arrays, case):
        if "other_mask" not in arrays:
            return None
        hidden = ~np.asarray(arrays["other_mask"])
        arrays = dict(arrays)
        for name in ("other_key", "other_value"):
            x = np.asarray(arrays[name]).copy()
            x[hidden] = np.nan
            arrays[name] = jnp.asarray(x)
        return arrays


class ConditionalCrossAttentionTest(CrossSuite):
    op = ops.conditional_cross_attention
    reference = reference.conditional_cross_attention
    cases = (
        OpCase(
            length=2, source=5, batch=(3,), heads=(4, 2), options={"form": "parallel"}, full=True
        ),
        OpCase(length=1, source=3, heads=(1, 1)),
    )
    errors = (
        ({"queries": lambda x: x[0]}, ValueError, r"queries has shape \(2, 4, 3\)"),
        ({"condition": lambda x: x[:2]}, ValueError, r"condition has shape \(2,\)"),
        ({"condition": jnp.zeros(3)}, ValueError, "condition has dtype float"),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args["queries"] = rng.normal(size=(4, case.length, case.heads[0], 3))
        args.pop("query")
        return {**args, "condition": rng.integers(4, size=case.batch).astype(np.int32)}

    def test_an_unknown_condition_is_loud(self):
        arrays, options = self.inputs(self.full_cases[0])
        y = self.op(**{**arrays, "condition": jnp.array([0, 4, 1])}, **options)
        self.assertEqual(np.isnan(np.asarray(y)).any((1, 2, 3)).tolist(), [False, True, False])

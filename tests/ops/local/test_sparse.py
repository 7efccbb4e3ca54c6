"""Sparse patterns in gather form against dense attention with the boolean mask of the pattern."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.attention import parts
from scanmax.testing import OpCase, OpSuite, compare


class PatternSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)

    def make_args(self, rng, case):
        H, G = case.heads
        return {
            "query": rng.normal(size=(*case.batch, case.length, H, 5)),
            "key": rng.normal(size=(*case.batch, case.length, G, 5)),
            "value": rng.normal(size=(*case.batch, case.length, G, 3)),
        }

    # A step continues a cache; it does not return the state of an op.
    def init_state(self, arrays, options):
        *batch, T, G, K = arrays["key"].shape
        V = arrays["value"].shape[-1]
        return ops.init_kv_cache(tuple(batch), T, G, K, V, dtype=arrays["key"].dtype)


def case(length, heads=(2, 1), batch=(), **options):
    full = options.pop("full", False)
    resume = options.get("is_causal", True)
    return OpCase(
        length=length, heads=heads, batch=batch, options=options, full=full, resume=resume
    )


class SparseAttentionTest(PatternSuite):
    op = ops.sparse_attention
    reference = reference.sparse_attention
    step = ops.sparse_attention_step
    cases = (
        case(11, (3, 3), (2,), stride=3, prefix_tokens=2, full=True),
        case(7, (4, 2), (1, 2), pattern="fixed", stride=4, subblocks=2, combine="heads"),
        case(1, stride=12, combine="local"),
        case(13, pattern="fixed", stride=5, summary=2, is_causal=False, prefix_tokens=1),
        case(13, (3, 3), combine="heads", is_causal=False),
        # queries before the first summary have nothing to read
        case(9, pattern="fixed", stride=3, combine="summary", normalizer="sigmoid"),
    )
    errors = (
        ({"pattern": "banded"}, ValueError, "pattern='banded' is not one of 'strided', 'fixed'"),
        ({"combine": "union"}, ValueError, "combine='union' is not one of 'merged'"),
        ({"stride": 0}, ValueError, "stride=0; expected at least 1"),
        ({"pattern": "fixed", "summary": 4}, ValueError, "summary=4 .* do not fit stride=3"),
        ({"key": lambda x: x[..., 1:, :, :]}, ValueError, r"key has shape \(2, 10, 3, 5\)"),
        ({"prefix_tokens": -1}, ValueError, "prefix_tokens=-1"),
    )

    def empty_rows(self, arrays, case):
        if case.options.get("combine") == "summary":
            return np.arange(9) < 2
        return None

    def test_patterns_with_several_passes_are_refused(self):
        x = jnp.zeros((3, 1, 2))
        with self.assertRaisesRegex(ValueError, "depend on all keys of a row"):
            ops.sparse_attention(x, x, x, normalizer=ops.NORMALIZERS["sparsemax"])


class SparseAttentionMatrixTest(PatternSuite):
    op = ops.sparse_attention_matrix
    reference = reference.sparse_attention_matrix
    step = None
    required_batch_ranks = ()
    cases = (
        case(7, (2, 1), (2,), pattern="fixed", stride=3, prefix_tokens=1, full=True),
        case(1, combine="heads"),
    )

    def make_args(self, rng, case):
        return {k: v for k, v in super().make_args(rng, case).items() if k != "value"}


class PerHeadWindowTest(PatternSuite):
    op = ops.per_head_window_attention
    reference = reference.per_head_window_attention
    step = ops.per_head_window_attention_step
    cases = (
        case(9, (3, 3), (2,), windows=(2, 4, 2), sinks=2, full=True),
        case(7, (4, 2), (1, 2), windows=(1, 3, (0.5, 0.5), 40), sinks=3, prefix_tokens=1),
        case(1, (2, 2), windows=(3, 1), sinks=4),
        case(100, (2, 1), windows=(70, 5), sinks=5, is_causal=False),
        case(100, (2, 1), windows=(90, 7), normalizer="sigmoid"),
    )
    errors = (
        ({"windows": (2, 4)}, ValueError, r"windows=\(2, 4\) has 2 entries; expected one per head"),
        ({"windows": (2, 4, 0)}, ValueError, "holds 0; expected at least 1"),
        ({"sinks": -1}, ValueError, "sinks=-1; expected at least 0"),
        ({"value": lambda x: x[..., 1:, :, :]}, ValueError, r"value has shape \(2, 8, 3, 3\)"),
    )


class PerHeadWindowMatrixTest(PatternSuite):
    op = ops.per_head_window_attention_matrix
    reference = reference.per_head_window_attention_matrix
    step = None
    required_batch_ranks = ()
    cases = (
        case(7, (2, 1), (2,), windows=(2, (1.0, 0.4)), sinks=1, full=True),
        case(1, windows=(3, 3), is_causal=False),
    )

    def make_args(self, rng, case):
        return {k: v for k, v in super().make_args(rng, case).items() if k != "value"}


class StepTest(chex.TestCase):
    """Steps, one after another, give the whole; each equals its equation."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
        rng = np.random.default_rng(0)
        self.tokens = tuple(
            jnp.asarray(rng.normal(size=(2, 11, heads, width)))
            for heads, width in ((4, 5), (2, 5), (2, 3))
        )

    def test_steps_equal_the_whole_and_their_equation(self):
        for name, options in (
            ("sparse_attention", {"pattern": "fixed", "stride": 4, "subblocks": 2, "summary": 2}),
            ("sparse_attention", {"combine": "heads", "stride": 4, "prefix_tokens": 1}),
            ("per_head_window_attention", {"windows": (1, 2, 5, 30), "sinks": 2}),
        ):
            whole = jax.jit(lambda *x, n=name, o=options: getattr(reference, n)(*x, **o))
            whole = whole(*self.tokens)
            state = ops.init_kv_cache((2,), 13, 2, 5, 3, dtype=jnp.float64)
            for t in range(11):
                tokens = [x[:, t] for x in self.tokens]
                y, state = getattr(ops, f"{name}_step")(state, *tokens, **options)
                compare.assert_relative(y, whole[:, t], 1e-12)
            self.assertEqual(int(state.position), 11)

    def test_a_step_is_its_equation(self):
        tokens = [x[:, 6] for x in self.tokens]
        before = [x[:, :6] for x in self.tokens[1:]]
        cache = ops.init_kv_cache((2,), 7, 2, 5, 3, dtype=jnp.float64)
        cache = ops.extend_kv_cache(cache, *before)
        for ours, theirs in (
            (
                ops.sparse_attention_step(cache, *tokens, pattern="fixed", stride=3),
                reference.sparse_attention_step(before, *tokens, pattern="fixed", stride=3),
            ),
            (
                ops.per_head_window_attention_step(cache, *tokens, windows=(1, 2, 3, 4)),
                reference.per_head_window_attention_step(before, *tokens, windows=(1, 2, 3, 4)),
            ),
        ):
            compare.assert_relative(ours[0], theirs[0], 1e-12)
            compare.assert_relative((ours[1].key, ours[1].value), theirs[1], 0.0)

    def test_a_full_cache_is_loud(self):
        cache = ops.init_kv_cache((2,), 11, 2, 5, 3, dtype=jnp.float64)
        cache = ops.extend_kv_cache(cache, *self.tokens[1:])
        tokens = [x[:, 0] for x in self.tokens]
        y, _ = ops.sparse_attention_step(cache, *tokens, stride=3)
        self.assertTrue(bool(jnp.isnan(y).all()))
        with self.assertRaisesRegex(ValueError, r"query has shape \(2, 4, 4\); expected"):
            ops.sparse_attention_step(cache, tokens[0][..., :4], *tokens[1:], stride=3)


def test_the_pattern_is_the_equations():
    for options in (
        {"pattern": "strided", "stride": 3, "combine": "heads", "prefix_tokens": 1},
        {"pattern": "fixed", "stride": 4, "subblocks": 2, "is_causal": False},
        {"pattern": "fixed", "stride": 4, "summary": 3, "combine": "summary"},
        {"combine": "local"},
    ):
        chex.assert_trees_all_equal(
            ops.sparse_pattern(10, 3, **options), reference.sparse_pattern(10, 3, **options)
        )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limit", [30, 200])
def test_any_number_of_logits_at_a_time(limit, monkeypatch):
    """Blocks of queries within a set, and blocks of sets: outputs and gradients."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 13, 2, 4))) for _ in range(3)]

    @jax.jit
    def values_and_gradients(arrays):
        def loss(arrays, module):
            options = {"pattern": "fixed", "stride": 4, "prefix_tokens": 1}
            return jnp.sum(jnp.sin(module.sparse_attention(*arrays, **options)))

        return [jax.value_and_grad(loss)(arrays, module) for module in (ops, reference)]

    monkeypatch.setitem(parts.PART_LOGITS, "cpu", limit)
    monkeypatch.setattr(parts, "PART_LOGITS_ELSEWHERE", limit)
    ops.sparse_attention.clear_cache()
    compare.assert_relative(*values_and_gradients(arrays), 1e-10)
    ops.sparse_attention.clear_cache()


def test_memory_of_training_is_linear():
    """XLA's temporaries per token do not grow with the sequence, backwards included."""

    def temporaries(length):
        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)

        def loss(query, key, value):
            return jnp.sum(ops.sparse_attention(query, key, value, stride=64))

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / length

    assert temporaries(16384) < 1.3 * temporaries(4096)

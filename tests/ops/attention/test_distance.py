"""Attention with a term of positions against its equations, and what its users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class DistanceSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)
    required_batch_ranks = (0, 2)

    def make_args(self, rng, case):
        batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
        args = {
            "query": rng.normal(size=(*batch, T, 4, 5)),
            "key": rng.normal(size=(*batch, S, 2, 5)),
            "value": rng.normal(size=(*batch, S, 2, 3)),
            "log_decay": -rng.uniform(0.05, 0.6, size=4),
        }
        if getattr(case, "everything", False):
            args["bias"] = rng.normal(size=(4, T, S))
            args["mask"] = rng.random((T, S)) < 0.7
            args["mask"][1] = False
        if hasattr(case, "axes"):
            args["query_positions"] = rng.integers(0, 9, size=(T, case.axes))
            args["key_positions"] = rng.integers(0, 9, size=(S, case.axes))
        return args


EVERYTHING = {
    "length": 7,
    "source": 9,
    "everything": True,
    "axes": 2,
    "full": True,
}


class DistanceAttentionTest(DistanceSuite):
    op = ops.distance_attention
    reference = reference.distance_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(
            **EVERYTHING,
            forms=("chunked",),
            options={"prefix_tokens": (1, 2), "chunk_size": (4, 5)},
        ),
        OpCase(
            length=7,
            batch=(1, 2),
            options={"placement": "weights", "is_causal": True, "chunk_size": 3},
        ),
        OpCase(length=1, forms=("parallel",), options={"normalizer": "sigmoid"}),
    )
    errors = (
        ({"log_decay": lambda x: x[:3]}, ValueError, r"log_decay has shape \(3,\)"),
        ({"query_positions": lambda x: x[:3]}, ValueError, "query_positions has shape"),
        ({"key_positions": lambda x: x[:, :1]}, ValueError, "key_positions has shape"),
        ({"placement": "output"}, ValueError, "'logits', 'weights'"),
        ({"form": "fast"}, ValueError, "'parallel', 'chunked'"),
    )

    def empty_rows(self, arrays, case):
        return np.arange(7) == 1 if getattr(case, "everything", False) else None

    def test_decayed_weights_have_equal_gradients_in_both_forms(self):
        arrays, _ = self.inputs(OpCase(length=6))

        def loss(arrays, op, **options):
            return jnp.sum(jnp.sin(op(**arrays, **options)))

        # normalizers of several passes are differentiated in another place
        for normalizer in ("softmax", "entmax15"):
            given = {"placement": "weights", "normalizer": normalizer}
            expected = jax.grad(loss)(arrays, ops.distance_attention, form="parallel", **given)
            given |= {"form": "chunked", "chunk_size": 4}
            actual = jax.grad(loss)(arrays, ops.distance_attention, **given)
            compare.assert_relative(actual, expected, 1e-10)

    def test_no_array_over_all_pairs_is_made(self):
        x = jax.ShapeDtypeStruct((4096, 2, 8), jnp.float32)
        decay = jax.ShapeDtypeStruct((2,), jnp.float32)
        for placement in ("logits", "weights"):

            def loss(x, decay, placement=placement):
                options = {"placement": placement, "form": "chunked", "chunk_size": 256}
                return ops.distance_attention(x, x, x, decay, **options).sum()

            compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, decay).compile()
            self.assertLess(compiled.memory_analysis().temp_size_in_bytes, 4096 * 4096)


class DistanceAttentionMatrixTest(DistanceSuite):
    op = ops.distance_attention_matrix
    reference = reference.distance_attention_matrix
    sequence = ()
    cases = (
        OpCase(**EVERYTHING, options={"prefix_tokens": 1}),
        OpCase(length=5, options={"placement": "weights", "is_causal": True}),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


class SoftCausalSuite(OpSuite):
    __test__ = False
    sequence = ("query", "key", "value")
    required_lengths = (1, 7)
    required_batch_ranks = (0, 2)

    def make_args(self, rng, case):
        batch, T, S = case.batch, case.length, getattr(case, "source", case.length)
        args = {
            "query": rng.normal(size=(*batch, T, 4, 5)),
            "key": rng.normal(size=(*batch, S, 2, 5)),
            "value": rng.normal(size=(*batch, S, 2, 3)),
            "strength": np.asarray(getattr(case, "strength", 0.3)),
        }
        if getattr(case, "everything", False):
            args["bias"] = rng.normal(size=(4, 1, S))
            args["mask"] = rng.random((T, S)) < 0.7
        return args


class SoftCausalAttentionTest(SoftCausalSuite):
    op = ops.soft_causal_attention
    reference = reference.soft_causal_attention
    forms = ("parallel", "chunked")
    cases = (
        OpCase(
            length=7,
            source=8,
            everything=True,
            full=True,
            forms=("chunked",),
            options={"chunk_size": (4, 5)},
        ),
        OpCase(length=7, batch=(1, 2), strength=0.0, options={"placement": "logits"}),
        OpCase(length=1, forms=("parallel",)),
    )
    errors = (
        ({"strength": jnp.ones(3)}, ValueError, r"strength has shape \(3,\)"),
        ({"placement": "output"}, ValueError, "'logits', 'weights'"),
    )


class SoftCausalAttentionMatrixTest(SoftCausalSuite):
    op = ops.soft_causal_attention_matrix
    reference = reference.soft_causal_attention_matrix
    sequence = ()
    cases = (
        OpCase(length=7, everything=True, full=True, options={"placement": "logits"}),
        OpCase(length=5, strength=0.0),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        args.pop("value")
        return args


class TermsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
        rng = np.random.default_rng(0)
        self.query, self.key, self.value = (
            jnp.asarray(rng.normal(size=(6, 2, 4))) for _ in range(3)
        )

    @parameterized.parameters("logits", "weights")
    def test_a_full_soft_mask_is_none_and_an_empty_one_is_causal_on_the_logits(self, placement):
        arrays = (self.query, self.key, self.value)
        for strength, is_causal in ((1.0, False), (0.0, True)):
            y = ops.soft_causal_attention(*arrays, jnp.array(strength), placement=placement)
            expected = ops.dot_product_attention(*arrays, is_causal=is_causal)
            if placement == "logits" or not is_causal:
                compare.assert_relative(y, expected, 1e-12)
            else:
                # rows were normalized over the later keys too
                self.assertGreater(float(jnp.abs(y - expected)[:-1].min()), 1e-4)
                compare.assert_relative(y[-1], expected[-1], 1e-12)

    def test_the_causal_form_is_alibi(self):
        slopes = ops.alibi_slopes(2, dtype=jnp.float64)
        y = ops.distance_attention(self.query, self.key, self.value, -slopes, is_causal=True)
        # as its authors add it: slope * key position, the same for every query
        bias = slopes[:, None, None] * jnp.arange(6.0)[None, None]
        expected = ops.dot_product_attention(self.query, self.key, self.value, bias, is_causal=True)
        compare.assert_relative(y, expected, 1e-12)

    @parameterized.parameters(1, 2, 3, 6, 8, 12)
    def test_slopes_equal_their_equation(self, heads):
        actual = ops.alibi_slopes(heads, dtype=jnp.float64)
        chex.assert_trees_all_close(
            actual, reference.alibi_slopes(heads, dtype=jnp.float64), rtol=1e-14
        )

    def test_masks_equal_their_equations_and_bias_the_logits_by_their_logarithm(self):
        decay = -jnp.array([0.1, 0.7])
        chex.assert_trees_all_close(
            ops.decay_mask_1d(decay, 5), reference.decay_mask_1d(decay, 5), rtol=1e-12
        )
        mask = ops.decay_mask_2d(decay, (2, 3))
        chex.assert_trees_all_close(mask, reference.decay_mask_2d(decay, (2, 3)), rtol=1e-12)
        positions = jnp.asarray(np.stack(np.indices((2, 3)), -1).reshape(-1, 2))
        arrays = (self.query, self.key, self.value)
        compare.assert_relative(
            ops.distance_attention(*arrays, decay, positions),
            ops.dot_product_attention(*arrays, jnp.log(mask)),
            1e-12,
        )
        with self.assertRaisesRegex(ValueError, "log_decay has shape"):
            ops.decay_mask_1d(decay[0], 5)
        with self.assertRaisesRegex(ValueError, "num_heads=0"):
            ops.alibi_slopes(0)

    def test_the_strength_is_traced(self):
        traces = 0

        @jax.jit
        def run(strength):
            nonlocal traces
            traces += 1
            return ops.soft_causal_attention(self.query, self.key, self.value, strength)

        run(jnp.array(0.5))
        run(jnp.array(0.25))
        self.assertEqual(traces, 1)

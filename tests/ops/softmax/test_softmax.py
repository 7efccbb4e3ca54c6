"""softmax and its kin against their equations; the (mantissa, exponent) monoid."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class SoftmaxSuite(OpSuite):
    """Cases of every function of logits: masks, several axes, infinities, empty slices."""

    __test__ = False
    cases = (
        OpCase(shape=(5, 7), full=True),
        OpCase(shape=(3, 7), where=(3, 7), full=True),
        OpCase(shape=(2, 5, 4), options={"axis": (-2, 0)}, where=(5, 1)),
        OpCase(shape=(130,), infinite=True),
        OpCase(shape=(), options={"axis": ()}),
    )
    errors = (
        ({"axis": 2}, ValueError, r"axis=2 .* \(5, 7\)"),
        ({"where": jnp.ones(3, bool)}, ValueError, r"where has shape \(3,\)"),
        ({"where": jnp.ones(7)}, ValueError, "expected a bool mask"),
        ({"logits": lambda x: x.astype(jnp.int32)}, ValueError, "logits has dtype int32"),
    )

    def make_args(self, rng, case):
        logits = 3 * rng.normal(size=case.shape)
        if hasattr(case, "infinite"):
            logits[..., ::3] = -np.inf
        where = None
        if hasattr(case, "where"):
            where = rng.random(case.where) < 0.6
            where[0] = False
        args = {"logits": logits, "where": where}
        if hasattr(case, "temperature"):
            args["temperature"] = rng.uniform(0.3, 3.0, case.temperature)
        return args

    def poison(self, arrays, case):
        if "where" not in arrays:
            return None
        left_out = ~jnp.broadcast_to(arrays["where"], case.shape)
        return {**arrays, "logits": jnp.where(left_out, jnp.nan, arrays["logits"])}


# A temperature per row, with logits of -inf: its gradient must not see them.
TEMPERED = OpCase(shape=(2, 9), temperature=(2, 1), infinite=True, full=True)


class SoftmaxTest(SoftmaxSuite):
    op = ops.softmax
    reference = reference.softmax
    forms = ("three_pass", "two_pass")
    cases = (*SoftmaxSuite.cases, TEMPERED)
    errors = (
        *SoftmaxSuite.errors,
        ({"form": "chunked"}, ValueError, "'three_pass', 'two_pass'"),
        ({"temperature": jnp.ones(7)}, ValueError, r"temperature has shape \(7,\)"),
    )

    def empty_rows(self, arrays, case):
        return np.arange(3) == 0 if case.shape == (3, 7) else None


class StablemaxTest(SoftmaxSuite):
    op = ops.stablemax
    reference = reference.stablemax

    def empty_rows(self, arrays, case):
        return np.arange(3) == 0 if case.shape == (3, 7) else None


class SigmoidWeightsTest(SoftmaxSuite):
    op = ops.sigmoid_weights
    reference = reference.sigmoid_weights
    cases = (*SoftmaxSuite.cases, OpCase(shape=(4,), options={"bias": 0.5}))
    errors = (*SoftmaxSuite.errors, ({"bias": jnp.zeros(2)}, ValueError, "expected a scalar"))

    def empty_rows(self, arrays, case):
        return np.arange(3) == 0 if case.shape == (3, 7) else None


class LogSuite(SoftmaxSuite):
    """The logarithms are -inf where left out: gradients must be finite all the same."""

    __test__ = False
    cases = tuple(c for c in SoftmaxSuite.cases if c.shape and not (c.full and hasattr(c, "where")))

    def poison(self, arrays, case):
        return None

    def test_left_out_is_minus_infinity_without_gradient(self):
        logits = jnp.array([[1.0, -jnp.inf, 2.0], [jnp.nan, 4.0, 5.0]])
        where = jnp.array([[True, True, True], [False, False, False]])
        y, pull_back = jax.vjp(lambda x: self.op(x, where=where), logits)
        np.testing.assert_array_equal(jnp.isneginf(y), [[False, True, False], [True, True, True]])
        (gradient,) = pull_back(jnp.ones_like(y))
        chex.assert_tree_all_finite(gradient)
        np.testing.assert_array_equal(gradient[1], 0)

    def test_exponential_sums_to_one(self):
        y = self.op(jnp.array([-2.0, 0.0, 3.0, 700.0]))
        np.testing.assert_allclose(jnp.sum(jnp.exp(y)), 1, rtol=1e-12)


class LogSoftmaxTest(LogSuite):
    op = ops.log_softmax
    reference = reference.log_softmax
    cases = (*LogSuite.cases, OpCase(shape=(2, 9), temperature=(2, 1), full=True))


class LogStablemaxTest(LogSuite):
    op = ops.log_stablemax
    reference = reference.log_stablemax


class ExtexpTest(chex.TestCase):
    """The accumulator: values by value (the split into m and n is not unique), then its laws."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))

    def logits(self, *shape, scale=1e4, dtype=jnp.float64):
        x = np.random.default_rng(0).uniform(-scale, scale, shape)
        return jnp.asarray(x, dtype)

    def assert_same_number(self, actual, expected, tolerance):
        """Compares m 2^n: relative to the expected number, whatever its size."""
        (m, n), (other_m, other_n) = (
            [np.asarray(x, np.float64) for x in pair] for pair in (actual, expected)
        )
        shift = np.where(n == other_n, 0, n - np.where(n == other_n, 0, other_n))
        compare.assert_relative(m * np.exp2(shift), other_m, tolerance)

    def test_pairs_and_sums_equal_their_equations(self):
        for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 2e-6), (jnp.bfloat16, 2e-6)):
            x = self.logits(3, 50, dtype=dtype).at[0].set(-jnp.inf)
            where = jnp.arange(50) % 5 > 0
            exact = x.astype(jnp.float64)
            pair = ops.extexp(x)
            chex.assert_type(pair, jnp.float64 if dtype == jnp.float64 else jnp.float32)
            self.assert_same_number(pair, reference.extexp(exact), tolerance)
            for axis in (-1, 0, (0, 1)):
                self.assert_same_number(
                    ops.extexp_sum(x, axis, where[None]),
                    reference.extexp_sum(exact, axis, where[None]),
                    tolerance,
                )
            left, right = ops.extexp(x[1]), ops.extexp(x[2])
            wide = tuple(tuple(part.astype(jnp.float64) for part in p) for p in (left, right))
            self.assert_same_number(
                ops.extexp_add(left, right), reference.extexp_add(*wide), tolerance
            )

    def test_mantissa_stays_near_one(self):
        m, n = ops.extexp(self.logits(1000, dtype=jnp.float32))
        self.assertGreater(float(m.min()), 0.7)
        self.assertLess(float(m.max()), 1.42)
        np.testing.assert_array_equal(n, jnp.round(n))
        self.assertGreater(float(n.max()), 14000)

    def test_addition_is_a_commutative_monoid(self):
        a, b, c = (ops.extexp(x) for x in self.logits(3, 200, scale=30.0))
        zero = ops.extexp(jnp.full(200, -jnp.inf))
        add = ops.extexp_add
        self.assert_same_number(add(add(a, b), c), add(a, add(b, c)), 1e-15)
        chex.assert_trees_all_equal(add(a, b), add(b, a))
        chex.assert_trees_all_equal(add(a, zero), a)
        chex.assert_trees_all_equal(add(zero, zero), zero)

    def test_partial_sums_merge(self):
        x = self.logits(4, 600)
        halves = (ops.extexp_sum(x[:, :77]), ops.extexp_sum(x[:, 77:]))
        self.assert_same_number(ops.extexp_add(*halves), ops.extexp_sum(x), 1e-14)

    def test_sums_keep_their_digits_over_long_axes(self):
        x = self.logits(100_000, scale=5.0, dtype=jnp.float32)
        m, n = ops.extexp_sum(x)
        expected = np.exp(np.asarray(x, np.float64)).sum()
        np.testing.assert_allclose(float(m) * 2.0 ** float(n), expected, rtol=2e-6)

    def test_log_sum_exp_has_the_gradient_of_softmax(self):
        def log_sum_exp(x):
            m, n = ops.extexp_sum(x)
            return jnp.log(m) + n * np.log(2.0)

        x = self.logits(30).at[3].set(-jnp.inf)
        np.testing.assert_allclose(log_sum_exp(x), jax.nn.logsumexp(x), rtol=1e-13)
        np.testing.assert_allclose(jax.grad(log_sum_exp)(x), ops.softmax(x), atol=1e-12)

    def test_shapes_that_differ_are_refused(self):
        one, two = ops.extexp(jnp.zeros(1)), ops.extexp(jnp.zeros(2))
        with self.assertRaisesRegex(ValueError, "four arrays of one shape"):
            ops.extexp_add(one, two)
        with self.assertRaisesRegex(ValueError, "x has dtype int32"):
            ops.extexp(jnp.zeros(2, jnp.int32))


class NumericsTest(chex.TestCase):
    def test_both_algorithms_hold_logits_that_exp_cannot(self):
        x = jnp.asarray(np.random.default_rng(0).uniform(-1e4, 1e4, (8, 500)), jnp.float32)
        x = x.at[0].set(1e4)
        exact = jax.nn.softmax(np.asarray(x, np.float64))
        for form in ("three_pass", "two_pass"):
            y = ops.softmax(x, form=form)
            compare.assert_rms(y, exact, tolerances.RMS_F32)
            np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)

    def test_infinite_logits(self):
        for form in ("three_pass", "two_pass"):
            y = ops.softmax(jnp.array([-jnp.inf, -jnp.inf]), form=form)
            np.testing.assert_array_equal(y, 0)
            # infinity over infinity, as in jax.nn.softmax
            y = ops.softmax(jnp.array([jnp.inf, 0.0]), form=form)
            self.assertTrue(bool(jnp.isnan(y).any()))

    def test_equals_jax_nn(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), jnp.float32)
        where = x > -0.5
        np.testing.assert_allclose(ops.softmax(x), jax.nn.softmax(x), rtol=1e-6)
        np.testing.assert_allclose(
            ops.softmax(x, 0, where), jax.nn.softmax(x, 0, where=where), rtol=1e-6
        )
        np.testing.assert_allclose(ops.log_softmax(x), jax.nn.log_softmax(x), rtol=1e-6, atol=1e-6)

    def test_stablemax_is_softmax_of_the_log_scores(self):
        x = jnp.linspace(-5, 5, 11)
        log_score = jnp.sign(x) * jnp.log1p(jnp.abs(x))
        np.testing.assert_allclose(ops.stablemax(x), ops.softmax(log_score), rtol=1e-5)

    def test_stablemax_keeps_a_gradient_where_softmax_has_none(self):
        x = jnp.array([50.0, 0.0, 0.0])
        softmax = jax.grad(lambda x: -ops.log_softmax(x)[0])(x)
        stablemax = jax.grad(lambda x: -ops.log_stablemax(x)[0])(x)
        self.assertEqual(float(softmax[0]), 0.0)
        self.assertLess(float(stablemax[0]), -1e-4)
        slopes = [
            jax.grad(lambda x: ops.stablemax(jnp.stack([x, 0.0]))[0])(s) for s in (0.0, -1e-6)
        ]
        np.testing.assert_allclose(slopes, 0.25, rtol=1e-5)

    def test_sigmoid_sums_to_about_one(self):
        for n in (64, 4096):
            np.testing.assert_allclose(ops.sigmoid_weights(jnp.zeros(n)).sum(), 1, rtol=0.02)
        biased = ops.sigmoid_weights(jnp.zeros(8), bias=jnp.float32(0))
        np.testing.assert_allclose(biased, 0.5)

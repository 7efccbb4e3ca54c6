"""Softmax of other positive scores, and of sparse ones, against equations and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class ScoreSuite(OpSuite):
    """A masked case with an empty slice, several axes, and infinite logits."""

    __test__ = False
    array = "logits"
    cases = (
        OpCase(shape=(3, 7), where=(3, 7), full=True),
        OpCase(shape=(2, 5, 4), options={"axis": (-2, 0)}, where=(5, 1)),
        OpCase(shape=(70,), infinite=True),
    )
    errors = (
        ({"axis": 2}, ValueError, r"axis=2 .* \(3, 7\)"),
        ({"where": jnp.ones(3, bool)}, ValueError, r"where has shape \(3,\)"),
    )

    def make_args(self, rng, case):
        logits = 3 * rng.normal(size=case.shape)
        if hasattr(case, "infinite"):
            logits[::3] = -np.inf
        where = None
        if hasattr(case, "where"):
            where = rng.random(case.where) < 0.6
            where[0] = False
        return {self.array: logits, "where": where}

    def poison(self, arrays, case):
        if "where" not in arrays:
            return None
        left_out = ~jnp.broadcast_to(arrays["where"], case.shape)
        return {**arrays, self.array: jnp.where(left_out, jnp.nan, arrays[self.array])}

    def empty_rows(self, arrays, case):
        return np.arange(3) == 0 if case.full else None


class ReluSoftmaxTest(ScoreSuite):
    op = ops.relu_softmax
    reference = reference.relu_softmax
    errors = (*ScoreSuite.errors, ({"eps": -1.0}, ValueError, r"eps=-1\.0"))


class SquaredReluSoftmaxTest(ScoreSuite):
    op = ops.squared_relu_softmax
    reference = reference.squared_relu_softmax


class TwoQuadTest(ScoreSuite):
    op = ops.two_quad
    reference = reference.two_quad
    cases = (*ScoreSuite.cases, OpCase(shape=(9,), options={"shift": 0.0, "eps": 1e-5}))


class SoftplusSoftmaxTest(ScoreSuite):
    op = ops.softplus_softmax
    reference = reference.softplus_softmax
    cases = (
        OpCase(shape=(3, 7), where=(3, 7), options={"dim": 64}, full=True),
        *ScoreSuite.cases[1:],
        OpCase(shape=(9,), options={"length_scale": False}),
    )
    errors = (*ScoreSuite.errors, ({"dim": 0}, ValueError, "dim=0"))


class ReweightPowerTest(ScoreSuite):
    op = ops.reweight_power
    reference = reference.reweight_power
    array = "weights"
    cases = (*ScoreSuite.cases[:2], OpCase(shape=(30,), options={"power": 15.0, "offset": 0.5}))
    errors = (
        *ScoreSuite.errors,
        ({"power": 0.5}, ValueError, r"power=0\.5"),
        ({"offset": -1.0}, ValueError, r"offset=-1\.0"),
    )

    def make_args(self, rng, case):
        args = super().make_args(rng, case)
        scores = np.exp(args["weights"])
        if args["where"] is not None:
            scores = np.where(args["where"], scores, 0)
        axis = case.options.get("axis", -1)
        total = scores.sum(axis, keepdims=True)
        return {**args, "weights": scores / np.where(total == 0, 1, total)}


class SoftmaxOneTest(ScoreSuite):
    op = ops.softmax_one
    reference = reference.softmax_one
    cases = (*ScoreSuite.cases, OpCase(shape=(9,), options={"null": -2.0}))


class SparsemaxTest(ScoreSuite):
    op = ops.sparsemax
    reference = reference.sparsemax


class Entmax15Test(ScoreSuite):
    op = ops.entmax15
    reference = reference.entmax15


class ClosedFormTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_two_logits(self):
        # y_1 - y_2 as a function of d = x_1 - x_2, solved by hand
        d = jnp.linspace(-3, 3, 25)
        x = jnp.stack([d, jnp.zeros_like(d)], -1)
        sparse = jnp.clip((1 + d) / 2, 0, 1)
        np.testing.assert_allclose(ops.sparsemax(x)[:, 0], sparse, atol=1e-15)
        # roots r of r_1 - r_2 = d / 2 and r_1^2 + r_2^2 = 1
        root = d / 4 + jnp.sqrt(jnp.maximum(8 - d**2, 0)) / 4
        entmax = jnp.where(d >= 2, 1.0, jnp.where(d <= -2, 0.0, root**2))
        np.testing.assert_allclose(ops.entmax15(x)[:, 0], entmax, atol=1e-14)

    def test_any_length_sums_to_one_and_has_the_order_of_the_logits(self):
        for n, scale in ((1, 1.0), (2000, 1e-3), (2000, 1.0), (2000, 1e4)):
            x = scale * jnp.asarray(np.random.default_rng(0).normal(size=(3, n)))
            for op in (ops.sparsemax, ops.entmax15):
                y = op(x)
                np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-12)
                np.testing.assert_array_equal(jnp.argmax(y, -1), jnp.argmax(x, -1))
                np.testing.assert_allclose(op(x + 1e3), y, atol=1e-8)
                narrow = op(x.astype(jnp.float32))
                np.testing.assert_allclose(narrow.sum(-1), 1, rtol=1e-5)

    def test_optimality(self):
        # y maximises <x, y> + H(y) over the simplex: the gradient is one number on the support
        # and no larger off it, H = -|y|^2 / 2 or (4 / 3) (1 - sum y^1.5)
        x = 0.4 * jnp.asarray(np.random.default_rng(1).normal(size=50))
        for op, slope in (
            (ops.sparsemax, lambda y: x - y),
            (ops.entmax15, lambda y: x - 2 * jnp.sqrt(y)),
        ):
            y = op(x)
            gradient, inside = slope(y), y > 0
            self.assertGreater(int(inside.sum()), 2)
            self.assertLess(int(inside.sum()), 50)
            level = gradient[inside]
            np.testing.assert_allclose(level, level[0], rtol=1e-10)
            self.assertLessEqual(float(gradient[~inside].max()), float(level[0]) + 1e-12)

    def test_forward_mode_and_second_derivatives(self):
        x = jnp.asarray([0.5, 0.1, -0.3, -4.0])
        for op in (ops.sparsemax, ops.entmax15):
            check_grads(op, (x,), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)
            hessian = jax.hessian(lambda x, op=op: op(x)[0])(x)
            chex.assert_tree_all_finite(hessian)
            np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)

    def test_softmax_one_is_softmax_beside_a_zero(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)))
        expected = ops.softmax(jnp.pad(x, ((0, 0), (0, 1))))[:, :-1]
        np.testing.assert_allclose(ops.softmax_one(x), expected, rtol=1e-13)
        np.testing.assert_array_equal(ops.softmax_one(jnp.full(3, -1e30)), 0)
        np.testing.assert_allclose(ops.softmax_one(jnp.full(3, 1e30)), 1 / 3)

    def test_nothing_overflows(self):
        for dtype in (jnp.float16, jnp.bfloat16):
            x = jnp.asarray([1e4, -1e4, 1e4, 0.0], dtype)
            for y in (ops.softplus_softmax(x, dim=64), ops.relu_softmax(x), ops.entmax15(x)):
                np.testing.assert_allclose(y.astype(jnp.float32), [0.5, 0, 0.5, 0], atol=1e-3)
        sharp = jnp.ones(100_000, jnp.float32).at[0].set(1e5) / 2e5
        np.testing.assert_allclose(ops.reweight_power(sharp, power=15.0)[0], 1.0)

    def test_causal_softplus_counts_the_visible(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)))
        whole = ops.softplus_softmax(x, where=jnp.tril(jnp.ones((5, 5), bool)), dim=16)
        for t in range(5):
            row = ops.softplus_softmax(x[t, : t + 1], dim=16)
            compare.assert_relative(whole[t, : t + 1], row, 1e-14)

    def test_reweighting_cuts_below_uniform(self):
        weights = ops.softmax(jnp.asarray(np.random.default_rng(0).normal(size=(4, 9))))
        y = ops.reweight_power(weights)
        np.testing.assert_array_equal(y > 0, weights > 1 / 9)
        np.testing.assert_allclose(y.sum(-1), 1)
        np.testing.assert_allclose(ops.reweight_power(jnp.ones((3, 1))), 1)

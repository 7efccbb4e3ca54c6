"""Normalisation against its equations, and the properties the equations promise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class NormSuite(OpSuite):
    """Cases of every norm over the last axis: with and without gain and offset, any batch."""

    __test__ = False
    vectors = ("scale", "bias")
    cases = (
        OpCase(batch=(3, 2), full=True),
        OpCase(batch=(), plain=True),
        OpCase(batch=(2,), options={"epsilon": 0.1}),
    )

    def make_args(self, rng, case):
        names = () if hasattr(case, "plain") else self.vectors
        vectors = {name: rng.normal(size=6) for name in names}
        return {"x": 1 + 2 * rng.normal(size=(*case.batch, 6)), **vectors}


class LayerNormTest(NormSuite):
    op = ops.layer_norm
    reference = reference.layer_norm
    errors = (
        ({"scale": jnp.ones(5)}, ValueError, r"scale has shape \(5,\); expected \[D\] = \(6,\)"),
        ({"bias": jnp.ones((1, 6))}, ValueError, r"bias has shape \(1, 6\)"),
    )

    def test_a_large_mean_costs_no_digits_of_the_variance(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64)), jnp.float32)
        far = ops.layer_norm(x + 4096)
        near = ops.layer_norm((x + 4096) - 4096)
        chex.assert_trees_all_close(far, near, atol=1e-3)


class MaskedLayerNormTest(OpSuite):
    op = ops.masked_layer_norm
    reference = reference.masked_layer_norm
    cases = (
        OpCase(batch=(3, 2), active=(3, 1), full=True),
        OpCase(batch=(4,), active=(), plain=True),
        OpCase(batch=(), active=()),
    )
    errors = (
        ({"scale": jnp.ones(5)}, ValueError, r"scale has shape \(5,\)"),
        ({"active": jnp.ones((4, 1), int)}, ValueError, "active has shape"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, 6)),
            "active": rng.integers(2, 7, size=[min(n, b) for n, b in zip(case.active, case.batch)]),
        }
        if not getattr(case, "plain", False):
            args |= {"scale": rng.normal(size=6), "bias": rng.normal(size=6)}
        return args

    def poison(self, arrays, case):
        hidden = np.arange(6) >= np.broadcast_to(arrays["active"], case.batch)[..., None]
        return arrays | {"x": np.where(hidden, np.nan, arrays["x"])}


class RmsNormTest(NormSuite):
    op = ops.rms_norm
    reference = reference.rms_norm
    vectors = ("scale",)
    errors = (({"scale": jnp.ones(5)}, ValueError, "scale has shape"),)


class GatedRmsNormTest(NormSuite):
    op = ops.gated_rms_norm
    reference = reference.gated_rms_norm
    vectors = ("scale",)
    cases = (
        *NormSuite.cases,
        OpCase(batch=(5,), full=True, options={"groups": 3, "norm_before_gate": True}),
        OpCase(batch=(5,), options={"groups": 2}),
    )
    errors = (
        ({"gate": lambda x: x[0]}, ValueError, "gate has shape"),
        ({"groups": 4}, ValueError, "groups=4 does not divide"),
        ({"groups": 0}, ValueError, "groups=0"),
        ({"scale": jnp.ones(5)}, ValueError, "scale has shape"),
    )

    def make_args(self, rng, case):
        return {**super().make_args(rng, case), "gate": rng.normal(size=(*case.batch, 6))}


class GroupNormTest(OpSuite):
    op = ops.group_norm
    reference = reference.group_norm
    cases = (
        OpCase(shape=(2, 3, 5, 6), options={"groups": 3}, full=True),
        OpCase(shape=(3, 2, 6), options={"groups": 1}),
        OpCase(shape=(2, 5, 6), options={"groups": 2, "axes": (-2,)}),
        OpCase(shape=(1, 2, 3, 2, 6), options={"groups": 6}),
    )
    errors = (
        ({"groups": 4}, ValueError, "groups=4 does not divide"),
        ({"axes": (1, 2)}, ValueError, r"axes=\(1, 2\) must be negative"),
        ({"axes": (-5,)}, ValueError, r"within x of shape \(2, 3, 5, 6\)"),
        ({"bias": jnp.ones(5)}, ValueError, "bias has shape"),
    )

    def make_args(self, rng, case):
        vectors = {name: rng.normal(size=6) for name in ("scale", "bias")}
        return {"x": 1 + 2 * rng.normal(size=case.shape), **vectors}


class BatchNormTest(OpSuite):
    op = ops.batch_norm
    reference = reference.batch_norm
    cases = (
        OpCase(shape=(2, 3, 6), full=True),
        OpCase(shape=(6,), plain=True, options={"epsilon": 0.1}),
    )
    errors = (
        ({"mean": jnp.ones(5)}, ValueError, "mean has shape"),
        ({"variance": jnp.ones(5)}, ValueError, "variance has shape"),
    )

    def make_args(self, rng, case):
        names = ("mean",) if hasattr(case, "plain") else ("mean", "scale", "bias")
        vectors = {name: rng.normal(size=6) for name in names}
        variance = rng.uniform(0.5, 2, size=6)
        return {"x": rng.normal(size=case.shape), "variance": variance, **vectors}


class BatchStatisticsTest(OpSuite):
    op = ops.batch_statistics
    reference = reference.batch_statistics
    cases = (
        OpCase(shape=(4, 3, 6), full=True),
        OpCase(shape=(4, 3, 6), where=(4, 3), full=True),
        OpCase(shape=(6,)),
    )
    errors = (({"where": jnp.ones(4, bool)}, ValueError, r"where has shape \(4,\)"),)

    def make_args(self, rng, case):
        where = rng.random(case.where) < 0.6 if hasattr(case, "where") else None
        return {"x": 1 + 2 * rng.normal(size=case.shape), "where": where}

    def poison(self, arrays, case):
        if "where" not in arrays:
            return None
        return {**arrays, "x": jnp.where(arrays["where"][..., None], arrays["x"], jnp.nan)}

    # Statistics stay in the accumulator's dtype, so low precision has its own comparison.
    def test_level_2_bfloat16(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 6)), jnp.bfloat16)
        actual = ops.batch_statistics(x)
        chex.assert_type(actual, jnp.float32)
        compare.assert_rms(
            actual, reference.batch_statistics(x.astype(jnp.float64)), tolerances.RMS_F32
        )

    def test_nothing_to_count_gives_zero(self):
        mean, variance = ops.batch_statistics(jnp.ones((3, 2)), jnp.zeros(3, bool))
        chex.assert_trees_all_equal((mean, variance), (jnp.zeros(2), jnp.zeros(2)))

    def test_its_batch_norm_has_mean_zero_and_variance_one(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)), jnp.float64)
        y = ops.batch_norm(x, *ops.batch_statistics(x), epsilon=0.0)
        chex.assert_trees_all_close(
            ops.batch_statistics(y), (jnp.zeros(6), jnp.ones(6)), atol=1e-12
        )


class InstanceBatchNormTest(OpSuite):
    op = ops.instance_batch_norm
    reference = reference.instance_batch_norm
    cases = (
        OpCase(shape=(2, 3, 4, 5), batch_channels=3, full=True),
        OpCase(shape=(3, 2, 4), batch_channels=4, plain=True, options={"epsilon": 0.1}),
        OpCase(shape=(1, 2, 3, 2, 4), batch_channels=0),
        OpCase(shape=(2, 2, 3, 6), batch_channels=4, full=True, options={"groups": 3}),
        OpCase(shape=(2, 3, 4), batch_channels=2, options={"groups": 4}),
        OpCase(shape=(2, 3, 4), batch_channels=4, options={"groups": 1}),
    )
    errors = (
        (
            {"mean": jnp.ones(6)},
            ValueError,
            r"mean has shape \(6,\); expected one axis of at most 5",
        ),
        ({"groups": 2}, ValueError, "groups=2 does not divide"),
        ({"groups": 1}, ValueError, r"a number a channel of every second group"),
        ({"variance": jnp.ones(2)}, ValueError, "variance has shape"),
        ({"scale": jnp.ones(3)}, ValueError, "scale has shape"),
    )

    def make_args(self, rng, case):
        *_, channels = case.shape
        names = () if hasattr(case, "plain") else ("scale", "bias")
        return {
            "x": 1 + 2 * rng.normal(size=case.shape),
            "mean": rng.normal(size=case.batch_channels),
            "variance": rng.uniform(0.5, 2, size=case.batch_channels),
            **{name: rng.normal(size=channels) for name in names},
        }

    def test_the_first_half_forgets_how_an_image_was_lit(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 6)), jnp.float32)
        mean, variance = ops.batch_statistics(x[..., 3:])
        lit = x * jnp.asarray([2.0, 0.5], jnp.float32).reshape(2, 1, 1, 1) + 3
        y, other = (ops.instance_batch_norm(given, mean, variance) for given in (x, lit))
        chex.assert_trees_all_close(y[..., :3], other[..., :3], atol=1e-3)
        self.assertGreater(float(jnp.abs(y - other)[..., 3:].min()), 0.1)


class GlobalResponseNormTest(OpSuite):
    op = ops.global_response_norm
    reference = reference.global_response_norm
    cases = (
        OpCase(shape=(2, 3, 4, 6), full=True),
        OpCase(shape=(5, 1, 6), plain=True, options={"epsilon": 0.1}),
        OpCase(shape=(1, 2, 2, 3, 6)),
    )
    errors = (
        ({"scale": jnp.ones(5)}, ValueError, "scale has shape"),
        ({"x": jnp.ones((3, 6))}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        names = () if hasattr(case, "plain") else ("scale", "bias")
        vectors = {name: rng.normal(size=6) for name in names}
        return {"x": rng.normal(size=case.shape), **vectors}

    def test_a_dead_channel_has_a_finite_gradient(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4)), jnp.float32)
        for given in (x.at[..., 1].set(0), jnp.zeros_like(x)):
            gradient = jax.grad(lambda x: ops.global_response_norm(x).sum())(given)
            chex.assert_tree_all_finite(gradient)

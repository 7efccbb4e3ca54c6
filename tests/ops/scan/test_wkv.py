"""The wkv of RWKV-4, of Vision-RWKV in both directions, and of RWKV-6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare

FORMS = ("recurrent", "chunked", "parallel")
SMALL = {"length": 5, "batch": (2,), "full": True}


def segments(rng, case):
    if not hasattr(case, "packed"):
        return {}
    return {"segment_ids": np.sort(rng.integers(0, 4, size=(*case.batch, case.length)), -1)}


def wkv_args(rng, case):
    shape, dim = (*case.batch, case.length, 3), 3
    return {
        # weights from e^-9 to e^9 in one sequence
        "key": rng.normal(size=shape) * 3,
        "value": rng.normal(size=shape),
        "log_decay": -rng.exponential(size=dim),
        "bonus": rng.normal(size=dim),
        **segments(rng, case),
    }


class WkvTest(OpSuite):
    op = ops.wkv
    reference = reference.wkv
    step = ops.wkv_step
    forms = FORMS
    sequence = ("key", "value", "segment_ids")
    required_lengths = (1, 17)
    cases = (
        OpCase(**SMALL, forms=("recurrent", "parallel"), options={"chunk_size": 2}),
        OpCase(length=17, batch=(1, 2), packed=True, options={"chunk_size": 8}),
        OpCase(length=1, forms=("recurrent", "parallel")),
    )
    errors = (
        ({"value": lambda x: x[..., 1:]}, ValueError, "value has shape"),
        ({"log_decay": lambda x: x[1:]}, ValueError, r"log_decay has shape .*\[D\]"),
        ({"bonus": lambda x: x[1:]}, ValueError, r"bonus has shape .*\[D\]"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"is_causal": False}, ValueError, "need is_causal=True"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "pallas"}, NotImplementedError, "wkv"),
    )
    make_args = staticmethod(wkv_args)


class BidirectionalWkvTest(OpSuite):
    op = ops.wkv
    reference = reference.wkv
    forms = ("recurrent",)
    cases = (
        OpCase(**SMALL, resume=False, options={"is_causal": False}),
        OpCase(length=17, packed=True, forms=("parallel",), options={"is_causal": False}),
        OpCase(length=1, options={"is_causal": False}),
    )
    make_args = staticmethod(wkv_args)


class WkvMatrixTest(OpSuite):
    op = ops.wkv_matrix
    reference = reference.wkv_matrix
    cases = (
        OpCase(**SMALL),
        OpCase(length=9, packed=True, options={"is_causal": False}),
    )

    def make_args(self, rng, case):
        args = wkv_args(rng, case)
        del args["value"]
        return args

    def test_the_matrix_applied_to_the_values_is_the_op(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            value = jnp.asarray(np.random.default_rng(1).normal(size=arrays["key"].shape))
            matrix = ops.wkv_matrix(**arrays, **options)
            expected = ops.wkv(value=value, **arrays, **options)
            compare.assert_relative(
                jnp.einsum("...dts,...sd->...td", matrix, value), expected, 1e-12
            )


def wkv6_args(rng, case, with_value=True):
    heads, dim, width = 2, 3, 2
    lead = (*case.batch, case.length, heads)
    args = {name: rng.normal(size=(*lead, dim)) for name in ("query", "key")}
    if with_value:
        args["value"] = rng.normal(size=(*lead, width))
    args["log_decay"] = -np.exp(rng.normal(size=(*lead, dim)))
    args["bonus"] = rng.normal(size=(heads, dim))
    return {**args, **segments(rng, case)}


class Wkv6Test(OpSuite):
    op = ops.wkv6
    reference = reference.wkv6
    step = ops.wkv6_step
    forms = FORMS
    sequence = ("query", "key", "value", "log_decay", "segment_ids")
    required_lengths = (1, 9)
    cases = (
        OpCase(**SMALL, forms=("recurrent", "chunked"), options={"chunk_size": 2}),
        OpCase(length=9, batch=(1, 2), packed=True, options={"chunk_size": 4}),
        OpCase(length=7, resume=False, options={"chunk_size": 4, "is_causal": False}),
        OpCase(length=1, forms=("chunked",)),
    )
    errors = (
        ({"value": lambda x: x[..., 1:, :]}, ValueError, "value has shape"),
        ({"log_decay": lambda x: x[..., 1:]}, ValueError, "log_decay has shape"),
        ({"bonus": lambda x: x[1:]}, ValueError, r"bonus has shape .*\[H, K\]"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"is_causal": False}, ValueError, "need is_causal=True"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "pallas"}, NotImplementedError, "wkv6"),
    )
    make_args = staticmethod(wkv6_args)


class Wkv6MatrixTest(OpSuite):
    op = ops.wkv6_matrix
    reference = reference.wkv6_matrix
    cases = (
        OpCase(**SMALL),
        OpCase(length=7, packed=True, options={"is_causal": False}),
    )

    def make_args(self, rng, case):
        return wkv6_args(rng, case, with_value=False)


def test_keys_of_any_size_and_strong_decays_keep_their_digits():
    rng = np.random.default_rng(0)
    key, value = (jnp.asarray(rng.normal(size=(2, 50, 3)), jnp.float32) for _ in range(2))
    decay, bonus = -jnp.array([0.0, 1.0, 300.0]), jnp.array([0.0, -1.0, 2.0])
    for options in ({"is_causal": True}, {"is_causal": False}):
        for form in FORMS:
            y = ops.wkv(key, value, decay, bonus, form=form, **options)
            for offset in (-1e4, 1e4):
                moved = ops.wkv(key + offset, value, decay, bonus, form=form, **options)
                np.testing.assert_allclose(moved, y, atol=5e-3)
    query, values = jnp.ones((50, 1, 2)), jnp.asarray(rng.normal(size=(50, 1, 2)), jnp.float32)
    log_decay = jnp.broadcast_to(-jnp.array([1e-3, 1e4]), (50, 1, 2))
    for form in FORMS:
        y = ops.wkv6(query, query, values, log_decay, jnp.ones((1, 2)), form=form)
        assert bool(jnp.isfinite(y).all())
        # the channel that forgets keeps the token before and itself
        between = jnp.exp(-1e-3 * jnp.maximum(jnp.arange(49)[::-1], 0))
        expected = (between[:, None] * values[:-1, 0]).sum(0) + values[-2, 0] + 2 * values[-1, 0]
        np.testing.assert_allclose(y[-1, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
def test_tokens_without_weight_are_not_read():
    rng = np.random.default_rng(0)
    key, value = (jnp.asarray(rng.normal(size=(9, 2))) for _ in range(2))
    decay, bonus = -jnp.ones(2), jnp.ones(2)
    absent = jnp.arange(9)[:, None] < 3

    def read(value, form):
        y, state = ops.wkv(
            jnp.where(absent, -jnp.inf, key), value, decay, bonus, return_state=True, form=form
        )
        return (y**2).sum() + state.sum(), (y, state)

    expected, last = ops.wkv(key[3:], value[3:], decay, bonus, return_state=True)
    for form in FORMS:
        gradient, (y, state) = jax.grad(read, has_aux=True)(value, form)
        np.testing.assert_array_equal(y[:3], 0)
        np.testing.assert_array_equal(gradient[:3], 0)
        np.testing.assert_allclose(y[3:], expected, rtol=1e-10)
        np.testing.assert_allclose(state, last, rtol=1e-10)


def test_a_sequence_may_start_with_tokens_without_weight():
    key = jnp.zeros((6, 1)).at[2:4].set(-jnp.inf)
    value = jnp.arange(1.0, 7.0)[:, None]
    ids = jnp.asarray([0, 0, 1, 1, 1, 1])
    for form in FORMS:
        y, state = ops.wkv(
            key, value, -jnp.ones(1), jnp.zeros(1), segment_ids=ids, return_state=True, form=form
        )
        np.testing.assert_allclose(y[2:5, 0], [0, 0, 5])
        np.testing.assert_allclose(state[1], np.log(1 + np.exp(-1.0)), rtol=1e-6)


def test_the_state_of_no_token_is_an_infinitely_small_weight():
    key, value, decay, bonus = (jnp.ones(shape) for shape in ((1, 2), (1, 2), (2,), (2,)))
    empty = jnp.stack([jnp.zeros(2), jnp.full(2, -jnp.inf)])
    y, state = ops.wkv_step(empty, key[0], value[0], decay, bonus)
    np.testing.assert_allclose(y, 1)
    np.testing.assert_allclose(state, jnp.ones((2, 2)))
    gradient = jax.grad(lambda s: ops.wkv(key, value, decay, bonus, initial_state=s).sum())(empty)
    assert bool(jnp.isfinite(gradient).all())


class TokenShiftTest(OpSuite):
    op = ops.token_shift
    reference = reference.token_shift
    cases = (
        OpCase(length=5, batch=(2,), full=True),
        OpCase(length=1, options={"is_causal": False}),
        OpCase(length=4, packed=True, options={"is_causal": False, "heads": 2}),
        OpCase(length=6, packed=True),
    )
    errors = (
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"heads": 4}, ValueError, "heads=4 do not divide its 6"),
        ({"is_causal": False}, ValueError, "is_causal=True"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
    )

    def make_args(self, rng, case):
        args = {"x": rng.normal(size=(*case.batch, case.length, 6))}
        if case.full:
            args["initial_state"] = rng.normal(size=(*case.batch, 6))
        return {**args, **segments(rng, case)}


class QuarterShiftTest(OpSuite):
    op = ops.quarter_shift
    reference = reference.quarter_shift
    cases = (
        OpCase(batch=(2,), size=(2, 3, 4), full=True),
        OpCase(size=(2, 5, 10), options={"heads": 2, "shift": 2}),
        OpCase(size=(1, 1, 3), options={"shift": 3}),
    )
    errors = (
        ({"heads": 3}, ValueError, "heads=3 do not divide its 4"),
        ({"shift": 0}, ValueError, "shift=0"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.size))}

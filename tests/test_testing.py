"""A sound op passes the suite, and every way to break one fails the test meant for it."""

import dataclasses
import unittest
import warnings
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances as promised

from scanmax.ops.contract import check_shape, op
from scanmax.testing import OpCase, OpSuite, Tolerances, compare

STATIC = ("return_state", "form", "chunk_size")


def decayed_sum_reference(x, decay, mask, *, initial_state=None, return_state=False):
    """y_t = decay y_{t-1} + x_t over the tokens that mask keeps; other tokens give 0."""
    state = jnp.zeros_like(x[..., 0, :]) if initial_state is None else initial_state
    outputs = []
    for t in range(x.shape[-2]):
        keep = mask[..., t, None]
        state = jnp.where(keep, decay * state + jnp.where(keep, x[..., t, :], 0), state)
        outputs.append(jnp.where(keep, state, 0))
    y = jnp.stack(outputs, axis=-2)
    return (y, state) if return_state else y


def decayed_sum_step(state, x, decay, mask):
    keep = mask[..., None]
    new = decay.astype(state.dtype) * state + jnp.where(keep, x, 0).astype(state.dtype)
    state = jnp.where(keep, new, state)
    return jnp.where(keep, state, 0).astype(x.dtype), state


def decayed_sum(
    x,
    decay,
    mask,
    *,
    initial_state=None,
    return_state=False,
    form=None,
    chunk_size=4,
    fault="",
):
    """The op under test; `fault` breaks it in the way of that name."""
    if fault != "silent":
        check_shape("mask", mask, x.shape[:-1], "[*B, T]")
    if fault == "empty_batch":
        x = x.reshape(*x.shape[:-2], -1, x.shape[-1])
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    if fault == "half_precision":
        dtype = x.dtype
    state = jnp.zeros_like(x[..., 0, :], dtype) if initial_state is None else initial_state
    state = state.astype(dtype)
    if fault == "ignored_state":
        state = jnp.zeros_like(state)
    kept = x if fault == "nan_leak" else jnp.where(mask[..., None], x, 0)
    rows = mask[..., None]

    def token(state, inputs):
        x_t, keep = inputs
        new = decay.astype(dtype) * state + x_t
        if fault == "nan_leak":
            weight = keep.astype(dtype)
            state = weight * new + (1 - weight) * state
        else:
            state = jnp.where(keep, new, state)
        return state, state if fault == "unmasked_rows" else jnp.where(keep, state, 0)

    by_time = (jnp.moveaxis(kept.astype(dtype), -2, 0), jnp.moveaxis(rows, -2, 0))
    if fault == "last_token" and x.shape[-2] % chunk_size == 1:
        by_time = (by_time[0].at[-1].set(0), by_time[1])
    if fault == "chunk_tail" and chunk_size > x.shape[-2]:
        by_time = (by_time[0] * 2, by_time[1])
    if fault == "form" and form == "chunked":
        by_time = (by_time[0] * (1 + 1e-9), by_time[1])
    state, y = jax.lax.scan(token, state, by_time)
    y = jnp.moveaxis(y, 0, -2)
    if fault == "scale":
        y = y * (1 + 1e-11)
    if fault == "gradient":
        y = y + 1e-8 * (decay.astype(dtype) - jax.lax.stop_gradient(decay).astype(dtype))
    if fault == "returned_state_gradient":
        state = jax.lax.stop_gradient(state)
    if fault != "dtype":
        y = y.astype(x.dtype)
    return (y, state) if return_state else y


sound = op(*STATIC)(decayed_sum)


def retracing(x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4):
    def whole(x, decay, mask, state):
        return decayed_sum(x, decay, mask, initial_state=state, return_state=return_state)

    return jax.jit(whole)(x, decay, mask, initial_state)


def wobbling(x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4):
    """Another result at every call, within the tolerance of level 1."""
    noise = jax.pure_callback(
        lambda: np.float64(next(wobbling.noise)), jax.ShapeDtypeStruct((), jnp.float64)
    )
    y, state = decayed_sum(x, decay, mask, initial_state=initial_state, return_state=True)
    y = (y + jax.lax.stop_gradient(noise).astype(y.dtype)).astype(x.dtype)
    return (y, state) if return_state else y


wobbling.noise = (1e-15 * i for i in range(10**9))


class DecayedSumSuite(OpSuite):
    """Declared once; the tests below run it on the sound op and on broken ones."""

    __test__ = False
    op = sound
    reference = decayed_sum_reference
    step = decayed_sum_step
    forms = ("recurrent", "chunked")
    sequence = ("x", "mask")
    required_lengths = (1, 5)
    required_batch_ranks = (0, 1)
    cases = (OpCase(length=1, width=2), OpCase(length=5, width=2, batch=(2,), full=True))
    errors = (({"mask": lambda mask: mask[..., 1:]}, ValueError, r"mask has shape \(2, 4\)"),)

    def make_args(self, rng, case):
        mask = np.ones((*case.batch, case.length), bool)
        if case.full:
            mask[..., 2] = False
        return {
            "x": rng.normal(size=(*case.batch, case.length, case.width)),
            "decay": rng.uniform(0.5, 0.9, size=()),
            "mask": mask,
        }

    def poison(self, arrays, case):
        if not case.full:
            return None
        return {**arrays, "x": jnp.where(arrays["mask"][..., None], arrays["x"], jnp.nan)}

    def empty_rows(self, arrays, case):
        return ~arrays["mask"] if case.full else None


def run(suite: type[OpSuite], *tests: str) -> dict[str, str]:
    """Runs the tests of a suite, or those called like `tests`: name -> why it failed."""
    result = unittest.TestResult()
    for name in unittest.TestLoader().getTestCaseNames(suite):
        if not tests or any(wanted in name for wanted in tests):
            suite(name).run(result)
    assert result.testsRun, f"no test of the suite is called like {tests}"
    failures = {}
    for test, text in result.failures + result.errors:
        failures[getattr(test, "test_case", test).id().rsplit(".", 1)[-1]] = text
    return failures


def broken(fault: str) -> type[OpSuite]:
    def faulty(x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4):
        return decayed_sum(
            x,
            decay,
            mask,
            initial_state=initial_state,
            return_state=return_state,
            form=form,
            chunk_size=chunk_size,
            fault=fault,
        )

    return type("Broken", (DecayedSumSuite,), {"op": op(*STATIC)(faulty)})


def test_a_sound_op_passes_every_level():
    assert run(DecayedSumSuite) == {}


@pytest.mark.parametrize(
    ("fault", "test", "reason"),
    [
        ("scale", "level_1_equals_the_reference", "over 1e-12 relative"),
        ("form", "level_1_equals_the_reference", "form='chunked'"),
        ("last_token", "level_1_equals_the_reference", "over 1e-12 relative"),
        ("dtype", "level_2_bfloat16", "float32 but expected bfloat16"),
        ("half_precision", "level_2_bfloat16", "bfloat16 but expected float32"),
        ("gradient", "level_3_gradients_equal_the_references", "over 1e-10 relative"),
        ("returned_state_gradient", "level_3_gradients_equal_the_references", "over 1e-10"),
        ("returned_state_gradient", "level_3_gradients_equal_finite_differences", "Not equal"),
        ("ignored_state", "level_4_split_and_resume", "over 1e-12 relative"),
        ("chunk_tail", "level_4_any_chunk_size", "chunk_size=16"),
        ("nan_leak", "level_4_nan_in_padding", "assert_tree_all_finite"),
        ("unmasked_rows", "level_4_empty_rows", "an empty row is not zero"),
        ("silent", "level_4_bad_arguments", "does not match"),
        ("empty_batch", "level_4_an_empty_batch", "ZeroDivisionError"),
    ],
)
def test_a_broken_op_fails_the_test_meant_for_it(fault, test, reason):
    failures = run(broken(fault), test)
    assert len(failures) == 1, failures
    assert reason in next(iter(failures.values()))


def with_op(function) -> type[OpSuite]:
    return type("Other", (DecayedSumSuite,), {"op": function})


def test_an_op_that_traces_at_every_call_fails():
    assert set(run(with_op(retracing), "trace_once")) == {"test_level_4_same_shapes_trace_once"}
    assert run(with_op(retracing), "jit_equals_eager") == {}


def test_an_op_whose_reruns_differ_fails():
    failures = run(with_op(op(*STATIC)(wobbling)), "bitwise")
    assert "entries differ" in failures["test_level_4_reruns_are_bitwise_equal"]


def test_a_step_that_disagrees_fails():
    def late_step(state, x, decay, mask):
        y, new = decayed_sum_step(state, x, decay, mask)
        return state.astype(y.dtype), new

    failures = run(type("Late", (DecayedSumSuite,), {"step": late_step}), "steps_equal_whole")
    assert "over 1e-12 relative" in failures["test_level_4_steps_equal_whole"]


def test_a_reference_that_takes_no_numpy_arrays_fails():
    def narrow(x, decay, mask, **options):
        return decayed_sum_reference(x.at[...].get(), decay, mask, **options)

    failures = run(type("Narrow", (DecayedSumSuite,), {"reference": narrow}), "level_1")
    assert "has no attribute 'at'" in failures.pop("test_level_1_numpy_arrays_serve")
    assert not failures


def scaled(one) -> Callable:
    """The sound op times what `one(x)` makes, as a newcomer writes it."""

    def call(x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4):
        told = {"initial_state": initial_state, "return_state": return_state}
        found = decayed_sum(x, decay, mask, form=form, chunk_size=chunk_size, **told)
        return (found[0] * one(x), found[1]) if return_state else found * one(x)

    return op(*STATIC)(call)


def test_mixed_dtypes_and_ranks_fail_and_say_what_switches_it():
    mixed = with_op(scaled(lambda x: jnp.ones((), jnp.bfloat16)))
    broadcast = with_op(scaled(lambda x: jnp.ones(x.shape[-1:], x.dtype)))
    test = "test_level_1_equals_the_reference"
    told = run(mixed, "level_1_equals")[test]
    assert "TypePromotionError" in told
    assert told.count("strict promotion is on: cast, as x.astype(y.dtype) does, or set") == 1
    told = run(broadcast, "level_1_equals")[test]
    assert "jax_numpy_rank_promotion" in told
    assert told.count("or set rank_promotion = 'allow' in the suite") == 1
    # So does an equation that fails for it.
    narrow = {"reference": scaled(lambda x: jnp.ones(x.shape[-1:], x.dtype)).__wrapped__}
    told = run(type("Narrow", (DecayedSumSuite,), narrow), "level_1_equals")[test]
    assert "or set rank_promotion = 'allow' in the suite" in told
    mixed.promotion, broadcast.rank_promotion = "standard", "allow"
    assert run(mixed, "level_1_equals") == run(broadcast, "level_1") == {}


def test_an_op_without_batching_fails():
    def host_code(
        x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4
    ):
        y = jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return (y, initial_state) if return_state else y

    failures = run(with_op(op(*STATIC)(host_code)), "level_4_vmap")
    assert "vmap" in failures["test_level_4_vmap_over_each_argument"]


def test_cases_that_miss_lengths_or_batch_axes_fail():
    few = (OpCase(length=5, width=2, full=True),)
    failures = run(type("Few", (DecayedSumSuite,), {"cases": few}), "cover_the_contract")
    assert "no case of length [1]" in failures["test_level_1_cases_cover_the_contract"]
    failures = run(type("Stepless", (DecayedSumSuite,), {"step": None}), "cover_the_contract")
    assert "declare `step`" in failures["test_level_1_cases_cover_the_contract"]


def test_an_op_that_warns_fails():
    def warning(x, decay, mask, *, initial_state=None, return_state=False, form=None, chunk_size=4):
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        return decayed_sum(x, decay, mask, initial_state=initial_state, return_state=return_state)

    failures = run(with_op(op(*STATIC)(warning)), "level_1_equals")
    assert "soon gone" in failures["test_level_1_equals_the_reference"]


def test_the_suite_restores_settings():
    before = (jax.config.jax_enable_x64, jax.config.jax_numpy_rank_promotion)
    run(DecayedSumSuite, "cover_the_contract")
    assert (jax.config.jax_enable_x64, jax.config.jax_numpy_rank_promotion) == before
    assert jnp.ones(1).dtype == jnp.float32


def test_the_promise_and_the_suite_hold_the_same_numbers():
    for name, value in dataclasses.asdict(Tolerances()).items():
        assert getattr(promised, name.upper()) == value, name
    assert DecayedSumSuite.tolerances == Tolerances()


class CompareTest(chex.TestCase):
    def test_relative_refuses(self):
        for actual, expected, message in [
            (np.zeros(2), np.zeros(3), "shape"),
            ({"a": 1.0}, {"b": 1.0}, "structure"),
            (np.array([1.0, np.nan]), np.ones(2), r"at \(1,\)"),
            (np.ones(2), np.array([1.0, np.nan]), "expected values hold NaN"),
            (np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), "infinities"),
            (np.array([1.0, 1.0 + 1e-6]), np.ones(2), r"1 of 2 entries"),
        ]:
            with self.assertRaisesRegex(AssertionError, message):
                compare.assert_relative(actual, expected, 1e-12)

    def test_relative_accepts_equal_infinities_and_zeros(self):
        compare.assert_relative(np.array([-np.inf, 2.0]), np.array([-np.inf, 2.0]), 1e-12)
        compare.assert_relative(np.zeros(3), np.zeros(3), 1e-12)
        compare.assert_relative(np.zeros((0, 3)), np.zeros((0, 3)), 1e-12)

    def test_rms(self):
        self.assertEqual(compare.relative_rms(np.zeros(3), np.zeros(3)), 0.0)
        self.assertEqual(compare.relative_rms(np.ones(3), np.zeros(3)), float("inf"))
        self.assertAlmostEqual(compare.relative_rms([3.0, 4.5], [3.0, 4.0]), 0.1)
        with self.assertRaisesRegex(AssertionError, "relative RMS"):
            compare.assert_rms(np.array([1.0, np.nan]), np.ones(2), 1e-2)

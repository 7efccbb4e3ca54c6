"""The diagonal recurrence and the segment sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.scan.diagonal import segment_sums
from scanmax.testing import OpCase, OpSuite


class DiagonalScanTest(OpSuite):
    op = ops.diagonal_scan
    reference = reference.diagonal_scan
    forms = ("recurrent", "chunked", "parallel")
    sequence = ("decay", "x")
    cases = (
        *OpCase.lengths(options={"chunk_size": 16}),
        # axes of size 1 broadcast; reversed time
        OpCase(length=9, full=True, resume=False, spread=1, options={"reverse": True}),
        # packed sequences, in both directions
        OpCase(length=9, batch=(2,), full=True, resume=False, options={"bidirectional": True}),
        OpCase(length=20, batch=(2,), packed=True, options={"chunk_size": 8}),
    )
    errors = (
        ({"decay": lambda x: x[..., :2, :]}, ValueError, r"decay has shape .*expected that of x"),
        ({"initial_state": lambda x: x[..., :2]}, ValueError, "initial_state has shape"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"axis": 4}, ValueError, "axis=4 is out of range"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, r"segment_ids has shape .*\[\*B, T\]"),
        ({"bidirectional": True}, ValueError, "bidirectional=True runs both ways"),
        ({"implementation": "pallas"}, NotImplementedError, "diagonal_scan"),
    )

    step = staticmethod(lambda state, decay, x: (decay * state + x,) * 2)

    def make_args(self, rng, case):
        shape = (*case.batch, case.length, 5)
        decay_shape = (*shape[:-1], 1) if hasattr(case, "spread") else shape
        args = {"decay": rng.uniform(-0.9, 1, size=decay_shape), "x": rng.normal(size=shape)}
        if "bidirectional" in case.options or hasattr(case, "packed"):
            args["segment_ids"] = np.sort(rng.integers(0, 4, size=shape[:-1]), -1)
        return args


@pytest.mark.usefixtures("float64")
def test_a_reversed_scan_is_the_scan_of_the_flipped_tokens():
    rng = np.random.default_rng(0)
    decay, x = (jnp.asarray(rng.normal(size=(2, 9, 3))) for _ in range(2))
    state = jnp.asarray(rng.normal(size=(2, 3)))
    flipped = ops.diagonal_scan(decay[:, ::-1], x[:, ::-1], initial_state=state)[:, ::-1]
    actual = ops.diagonal_scan(decay, x, initial_state=state, reverse=True)
    np.testing.assert_allclose(actual, flipped, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_any_axis_and_complex_decays():
    rng = np.random.default_rng(0)
    decay = jnp.exp(1j * jnp.asarray(rng.normal(size=(6, 2))))
    x = jnp.asarray(rng.normal(size=(6, 2))).astype(decay.dtype)
    expected = reference.diagonal_scan(decay, x)
    for form in DiagonalScanTest.forms:
        actual = ops.diagonal_scan(decay.T, x.T, axis=-1, form=form).T
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", DiagonalScanTest.forms)
def test_complex_gradients_are_those_of_the_equation(form):
    rng = np.random.default_rng(0)
    shape, segment_ids = (2, 9, 3), jnp.asarray([[0, 0, 1, 1, 1, 1, 0, 2, 2]] * 2)
    with jax.enable_x64(True):
        parts = [jnp.asarray(rng.normal(size=shape)) for _ in range(4)]
        state = jnp.asarray(rng.normal(size=(2, 3)))

        def loss(scan, parts, state, **options):
            decay = jax.lax.complex(*parts[:2]) / 3
            # real inputs become complex states
            states, last = scan(
                decay,
                parts[2],
                initial_state=state,
                return_state=True,
                segment_ids=segment_ids,
                **options,
            )
            return (states.real * parts[3] + states.imag**2).sum() + jnp.abs(last).sum()

        for reverse in (False, True):
            expected = jax.grad(
                lambda *z, reverse=reverse: loss(reference.diagonal_scan, *z, reverse=reverse),
                (0, 1),
            )(parts, state)
            actual = jax.grad(
                lambda *z, reverse=reverse: loss(
                    ops.diagonal_scan, *z, form=form, chunk_size=4, reverse=reverse
                ),
                (0, 1),
            )(parts, state)
            jax.tree.map(
                lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12),
                actual,
                expected,
            )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_are_scanned_one_by_one(reverse):
    rng = np.random.default_rng(0)
    decay, x = (jnp.asarray(rng.normal(size=(9, 3))) for _ in range(2))
    state = jnp.asarray(rng.normal(size=3))
    # a number may come again: a segment is a run of equal ones
    segment_ids = jnp.asarray([3, 3, 0, 0, 0, 3, 3, 3, 3])
    packed, last = ops.diagonal_scan(
        decay, x, segment_ids=segment_ids, initial_state=state, return_state=True, reverse=reverse
    )
    order = [slice(0, 2), slice(2, 5), slice(5, 9)]
    for i, part in enumerate(order[::-1] if reverse else order):
        alone, end = ops.diagonal_scan(
            decay[part],
            x[part],
            initial_state=None if i else state,
            return_state=True,
            reverse=reverse,
        )
        np.testing.assert_allclose(packed[part], alone, rtol=1e-10)
    np.testing.assert_allclose(last, end, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block", [2, 3, 8])
def test_segment_sums_are_the_sums_between_tokens(block):
    length = 8
    x = np.random.default_rng(0).normal(size=(2, length))
    sums = np.asarray(segment_sums(jnp.asarray(x), block))
    for i in range(length):
        for j in range(length):
            expected = x[:, j + 1 : i + 1].sum(-1) if j <= i else np.full(2, -np.inf)
            np.testing.assert_allclose(sums[:, i, j], expected, rtol=1e-10, atol=1e-10)


def test_segment_sums_keep_the_digits_of_short_segments_after_long_decays():
    x = jnp.full(64, -1e-3).at[:32].set(-1e3)
    np.testing.assert_allclose(segment_sums(x)[63, 32], -0.031, rtol=1e-6)
    infinite = segment_sums(x.at[3].set(-jnp.inf))
    assert not bool(jnp.isnan(infinite).any())
    np.testing.assert_allclose(infinite[63, 32], -0.031, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_the_scan_differentiates_twice():
    decay, x = jnp.full((5, 1), 0.5), jnp.arange(5.0)[:, None]

    def second(scan):
        first = jax.grad(lambda a: (scan(a, x) ** 2).sum())
        return jax.grad(lambda a: first(a).sum())(decay)

    np.testing.assert_allclose(
        second(ops.diagonal_scan), second(reference.diagonal_scan), rtol=1e-10
    )

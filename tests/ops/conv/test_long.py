"""Long convolutions by FFT, their step and matrix, and the Monarch product under them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.conv.long import smooth_length
from scanmax.ops.conv.monarch import monarch_factors
from scanmax.testing import OpCase, OpSuite


class FftConvTest(OpSuite):
    op = ops.fft_conv
    reference = reference.fft_conv
    step = ops.long_conv_step
    forms = ("fft", "monarch", "direct")
    sequence = ("x", "segment_ids")
    required_lengths = (1, 7, 65)
    cases = (
        OpCase(length=1, size=(1,), taps=(3,), dim=2),
        OpCase(length=7, batch=(2,), size=(7,), taps=(4,), dim=3, full=True),
        OpCase(
            length=65,
            batch=(1, 2),
            size=(65,),
            taps=(129,),
            dim=2,
            forms=("fft", "direct"),
            options={"mode": "bidirectional"},
        ),
        OpCase(length=65, batch=(2,), size=(65,), taps=(64,), dim=2, forms=("fft",)),
        OpCase(length=5, size=(5, 4), taps=(9, 2), dim=2, options={"mode": "bidirectional"}),
        OpCase(length=6, size=(6, 5), taps=(3, 5), dim=2, options={"mode": "circular"}),
        OpCase(length=3, size=(3, 2, 4), taps=(2, 3, 9), dim=2, forms=("fft",)),
        OpCase(length=130, batch=(2,), size=(130,), taps=(130,), dim=2, segments=5),
        OpCase(length=131, size=(131,), taps=(24,), dim=2, segments=3),
        OpCase(length=65, size=(65,), taps=(90,), dim=1, segments=2, forms=("fft", "monarch")),
        OpCase(length=3, size=(3,), taps=(1,), dim=1, segments=2),
    )
    errors = (
        ({"kernel": lambda k: k[:, 1:]}, ValueError, r"kernel has shape .*\[\*L, D\]"),
        ({"skip": lambda k: k[1:]}, ValueError, r"skip has shape .*\[D\]"),
        ({"initial_state": lambda s: s[..., 1:, :]}, ValueError, "initial_state has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"mode": "valid"}, ValueError, "mode='valid' is not one of"),
        ({"mode": "bidirectional"}, ValueError, "need mode='causal'"),
        ({"form": "slow"}, ValueError, "form='slow' is not one of"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, *case.size, case.dim)),
            "kernel": rng.normal(size=(*case.taps, case.dim)),
            "skip": rng.normal(size=case.dim) if case.length in (7, 130) else None,
        }
        if hasattr(case, "segments"):
            lead = (*case.batch, case.length)
            args["segment_ids"] = np.sort(rng.integers(case.segments, size=lead), -1)
        return args

    def _check_low_precision(self, dtype, tolerance):
        # the state is a window of tokens, kept in their dtype
        for case in self.full_cases:
            arrays, options = self.inputs(case, dtype)
            y, state = self.compiled(options)(**arrays)
            assert y.dtype == state.dtype == dtype
            exact = {name: x.astype(jnp.float64) for name, x in arrays.items()}
            expected, window = self.expected(exact, options)
            error = jnp.linalg.norm(y.astype(jnp.float64) - expected) / jnp.linalg.norm(expected)
            self.assertLess(float(error), tolerance)
            np.testing.assert_array_equal(state.astype(jnp.float64), window)


class FftConvDenseTest(OpSuite):
    op = ops.fft_conv_dense
    reference = reference.fft_conv_dense
    cases = (
        OpCase(batch=(2,), size=(7,), taps=(4,), full=True),
        OpCase(size=(4, 5), taps=(9, 3), options={"mode": "bidirectional"}),
    )
    errors = (({"kernel": lambda k: k[:, 1:]}, ValueError, r"\[\*L, I, O\]"),)

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, *case.size, 3)),
            "kernel": rng.normal(size=(*case.taps, 3, 2)),
        }


class LongConvMatrixTest(OpSuite):
    op = ops.long_conv_matrix
    reference = reference.long_conv_matrix
    cases = (
        OpCase(taps=(4,), options={"size": 7}, full=True),
        OpCase(taps=(4, 3), options={"size": (3, 2), "mode": "bidirectional"}),
        OpCase(taps=(2, 3), options={"size": (2, 3), "mode": "circular"}),
    )
    errors = (({"size": (2, 2)}, ValueError, r"as many axes before the channels as size=\(2, 2\)"),)

    def make_args(self, rng, case):
        return {"kernel": rng.normal(size=(*case.taps, 2)), "skip": rng.normal(size=2)}


@pytest.mark.parametrize("length", [1, 7, 12, 96])
def test_monarch_is_the_fourier_transform(length):
    x = np.random.default_rng(0).normal(size=(2, length)) + 1j
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        np.testing.assert_allclose(ops.monarch_fft(x), np.fft.fft(x), atol=1e-11)
        np.testing.assert_allclose(reference.monarch_fft(x), np.fft.fft(x), atol=1e-11)
        narrow = ops.monarch_fft(x.real.astype(jnp.float32))
    assert narrow.dtype == jnp.complex64


def test_monarch_with_learned_blocks():
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(n, n, 2)) for n in (3, 2, 4)]
    x = rng.normal(size=(2, 24))
    with jax.enable_x64(True):
        blocks = [jnp.asarray(block) for block in blocks]
        expected = reference.monarch_fft(jnp.asarray(x), blocks)
        np.testing.assert_allclose(ops.monarch_fft(jnp.asarray(x), blocks), expected, rtol=1e-11)

        def loss(blocks):
            return jnp.abs(ops.monarch_fft(jnp.asarray(x), blocks)).sum()

        for gradient in jax.grad(loss)(blocks):
            assert float(jnp.abs(gradient).min()) > 0
    with pytest.raises(ValueError, match=r"factors=\(5, 5\) have product 25"):
        ops.monarch_fft(x, factors=(5, 5))
    with pytest.raises(ValueError, match="blocks have shapes"):
        ops.monarch_fft(x, blocks, factors=(2, 3, 4))


def test_lengths_and_factors():
    for minimum in (1, 7, 127, 1025, 4099):
        length = smooth_length(minimum)
        assert minimum <= length <= 1.2 * minimum + 2
        assert length % 2 == 0
        assert max(monarch_factors(length)) <= 32
        assert np.prod(monarch_factors(length)) == length
    assert monarch_factors(74) == (37, 2)


@pytest.mark.usefixtures("float64")
def test_it_is_the_convolution_of_numpy():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(50, 2)), rng.normal(size=(80, 2))
    y = ops.fft_conv(jnp.asarray(x), jnp.asarray(kernel))
    for d in range(2):
        expected = np.convolve(x[:, d], kernel[:, d])[:50]
        np.testing.assert_allclose(y[:, d], expected, rtol=1e-10, atol=1e-10)


def test_training_keeps_the_arguments_alone():
    x, kernel = jnp.ones((2, 64, 3)), jnp.ones((64, 3))
    kept = jax.eval_shape(lambda *a: jax.vjp(ops.fft_conv, *a)[1], x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= x.size + kernel.size

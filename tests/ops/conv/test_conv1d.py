"""The causal depthwise convolution and its step."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class CausalConv1dTest(OpSuite):
    op = ops.causal_conv1d
    reference = reference.causal_conv1d
    step = ops.causal_conv1d_step
    sequence = ("x", "segment_ids")
    cases = (
        *OpCase.lengths((1, 2, 7, 63, 64, 65, 200), dim=5, width=4),
        OpCase(length=3, dim=2, width=1, plain=True),
        OpCase(length=2, dim=2, width=5, options={"activation": "relu"}),
        OpCase(length=9, batch=(2,), dim=2, width=4, packed=True),
        OpCase(length=9, batch=(2,), dim=3, width=4, full=True, options={"activation": "silu"}),
    )
    errors = (
        ({"kernel": lambda x: x[:, 1:]}, ValueError, r"kernel has shape .*\[W, D\]"),
        ({"bias": lambda x: x[1:]}, ValueError, r"bias has shape .*\[D\]"),
        ({"initial_state": lambda x: x[..., 1:, :]}, ValueError, "initial_state has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"activation": "tanhh"}, ValueError, "activation='tanhh' is not one of"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, case.length, case.dim)),
            "kernel": rng.normal(size=(case.width, case.dim)),
            "bias": None if hasattr(case, "plain") else rng.normal(size=case.dim),
        }
        if hasattr(case, "packed"):
            lead = (*case.batch, case.length)
            args["segment_ids"] = np.sort(rng.integers(0, 4, size=lead), -1)
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


@pytest.mark.usefixtures("float64")
def test_it_is_the_convolution_of_numpy():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(11, 2)), rng.normal(size=(4, 2))
    y = ops.causal_conv1d(jnp.asarray(x), jnp.asarray(kernel))
    for d in range(2):
        expected = np.convolve(x[:, d], kernel[::-1, d])[:11]
        np.testing.assert_allclose(y[:, d], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_packed_row_goes_on_from_its_last_sequence():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=(n, 2))) for n in (6, 4))
    ids = jnp.asarray([0, 0, 0, 1, 1])
    _, state = ops.causal_conv1d(x[:5], kernel, segment_ids=ids, return_state=True)
    np.testing.assert_array_equal(state, x[2:5].at[0].set(0))
    y, _ = ops.causal_conv1d_step(state, x[5], kernel)
    np.testing.assert_allclose(y, ops.causal_conv1d(x[3:], kernel)[-1], rtol=1e-10)

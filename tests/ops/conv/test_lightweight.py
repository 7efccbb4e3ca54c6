"""Lightweight and dynamic convolution: the band of their taps, causal and centred."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

CENTRED = {"is_causal": False}


class TapsSuite(OpSuite):
    __test__ = False
    # There are no chunks: what differs is a sequence shorter than the taps.
    required_lengths = (1, 2, 7, 70)
    cases = (
        OpCase(length=7, batch=(2,), heads=2, dim=6, width=3, full=True),
        OpCase(length=1, heads=2, dim=4, width=4),
        OpCase(length=70, batch=(1, 2), heads=2, dim=4, width=4),
        OpCase(length=5, batch=(2,), heads=3, dim=3, width=4, options=CENTRED, resume=False),
        OpCase(length=2, heads=1, dim=2, width=5, options=CENTRED, resume=False),
        OpCase(length=9, batch=(2,), heads=2, dim=2, width=4, packed=True),
        OpCase(
            length=9,
            batch=(2,),
            heads=2,
            dim=2,
            width=5,
            packed=True,
            options=CENTRED,
            resume=False,
            full=True,
        ),
    )
    errors = (
        ({"x": lambda x: x[..., 1:]}, ValueError, r"2 heads of 3 taps must divide the 5 channels"),
        ({"initial_state": lambda x: x[..., 1:, :]}, ValueError, "initial_state has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"is_causal": False}, ValueError, "they need is_causal=True"),
    )

    def logits_shape(self, case):
        return (case.heads, case.width)

    def make_args(self, rng, case):
        lead = (*case.batch, case.length)
        args = {
            "x": rng.normal(size=(*lead, case.dim)),
            "logits": rng.normal(size=self.logits_shape(case)),
        }
        if hasattr(case, "packed"):
            args["segment_ids"] = np.sort(rng.integers(0, 4, size=lead), -1)
        return args

    def _check_low_precision(self, dtype, tolerance):
        # The state is a window of tokens, kept in their dtype.
        for case in self.full_cases:
            arrays, options = self.inputs(case, dtype)
            y, *state = jax.tree.leaves(self.compiled(options)(**arrays))
            exact = {
                name: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
                for name, x in arrays.items()
            }
            expected, *window = jax.tree.leaves(self.expected(exact, options))
            chex.assert_type([y, *state], dtype)
            error = jnp.linalg.norm(y.astype(jnp.float64) - expected) / jnp.linalg.norm(expected)
            self.assertLess(float(error), tolerance)
            chex.assert_trees_all_equal([x.astype(jnp.float64) for x in state], window)


class LightweightConvTest(TapsSuite):
    op = ops.lightweight_conv
    reference = reference.lightweight_conv
    step = ops.lightweight_conv_step
    sequence = ("x", "segment_ids")
    errors = (
        *TapsSuite.errors,
        ({"logits": jnp.ones((1, 2, 3))}, ValueError, r"logits has shape .*\[H, W\]"),
    )

    def test_heads_of_one_channel_are_a_depthwise_convolution(self):
        arrays, _ = self.inputs(self.cases[-1])
        x, logits = arrays["x"], arrays["logits"]
        expected = ops.causal_conv1d(x, jax.nn.softmax(logits, -1).T)
        chex.assert_trees_all_close(ops.lightweight_conv(x, logits), expected, rtol=1e-12)


class DynamicConvTest(TapsSuite):
    op = ops.dynamic_conv
    reference = reference.dynamic_conv
    step = ops.dynamic_conv_step
    sequence = ("x", "logits", "segment_ids")
    errors = (
        *TapsSuite.errors,
        ({"logits": lambda x: x[:, 1:]}, ValueError, r"logits has shape .*\[\*B, T, H, W\]"),
    )

    def logits_shape(self, case):
        return (*case.batch, case.length, case.heads, case.width)

    def test_it_is_its_matrix(self):
        for case in self.cases[-4:]:
            arrays, options = self.inputs(case)
            x, logits = arrays.pop("x"), arrays.pop("logits")
            given = {"is_causal": True, **options, **arrays}
            given.pop("initial_state", None), given.pop("return_state", None)
            matrix = ops.dynamic_conv_matrix(logits, **given)
            split = x.reshape(*x.shape[:-1], case.heads, -1)
            expected = jnp.einsum("...hts,...shk->...thk", matrix, split).reshape(x.shape)
            actual = ops.dynamic_conv(x, logits, **given)
            chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


class DynamicConvMatrixTest(OpSuite):
    op = ops.dynamic_conv_matrix
    reference = reference.dynamic_conv_matrix
    cases = (
        OpCase(shape=(2, 5, 2, 3), full=True),
        OpCase(shape=(4, 1, 6), options=CENTRED),
        OpCase(shape=(1, 2, 6, 2, 4), packed=True, options=CENTRED),
    )
    errors = (
        ({"logits": jnp.ones((2, 3))}, ValueError, "logits has shape"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
    )

    def make_args(self, rng, case):
        args = {"logits": rng.normal(size=case.shape)}
        if hasattr(case, "packed"):
            args["segment_ids"] = np.sort(rng.integers(0, 3, size=case.shape[:-2]), -1)
        return args

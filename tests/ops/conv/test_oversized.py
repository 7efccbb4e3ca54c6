"""Oversized convolution: dense matrices, and places that circular kernels cannot tell apart."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class OversizedConv2dTest(OpSuite):
    op = ops.oversized_conv2d
    reference = reference.oversized_conv2d
    cases = (
        OpCase(batch=(2,), map=(3, 4, 2), taps=(7, 3), full=True),
        OpCase(map=(1, 3, 2), taps=(5, 1)),
        OpCase(batch=(1, 2), map=(2, 4, 1), taps=(5, 3), options={"interpolate": False}),
    )
    errors = (
        ({"column": lambda k: k[1:]}, ValueError, r"column has shape .*of odd K"),
        ({"row": lambda k: k[:, 1:]}, ValueError, "with C = 2"),
    )

    def make_args(self, rng, case):
        args = {"x": rng.normal(size=(*case.batch, *case.map))}
        names = ("column", "row")
        return args | {
            name: rng.normal(size=(taps, case.map[-1])) for name, taps in zip(names, case.taps)
        }


def test_a_moved_object_changes_the_mean_and_no_circular_kernel_sees_it():
    rng = np.random.default_rng(0)
    x = jnp.zeros((6, 6, 1)).at[1, 1].set(1.0)
    moved = jnp.roll(x, (2, 3), (0, 1))
    column, row = (jnp.asarray(rng.normal(size=(11, 1)), jnp.float32) for _ in range(2))

    def oversized(x):
        return ops.oversized_conv2d(x, column, row).mean()

    def circular(x):
        kernel = column[:6, None] * row[None, :6]
        return ops.fft_conv(x, kernel, mode="circular").mean()

    assert abs(float(oversized(moved) - oversized(x))) > 1e-2
    chex.assert_trees_all_close(circular(moved), circular(x), atol=1e-6)

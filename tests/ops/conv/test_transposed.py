"""Transposed convolution: what every tap writes, and the gradient of a strided one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class ConvTranspose2dTest(OpSuite):
    op = ops.conv_transpose2d
    reference = reference.conv_transpose2d
    cases = (
        OpCase(batch=(2,), map=(2, 3, 2), size=4, options={"padding": 1}, full=True),
        OpCase(map=(3, 1, 2), size=3, options={"stride": 2}),
        OpCase(batch=(1, 2), map=(2, 2, 1), size=2, options={"stride": 3}),
        # More taps than are gathered for one product.
        OpCase(map=(2, 1, 2), size=4, options={"stride": 1, "padding": 1}),
    )
    errors = (
        ({"kernel": lambda k: k[1:]}, ValueError, r"kernel has shape .*\[k, k, C, O\]"),
        ({"padding": 3}, ValueError, "leave nothing of x"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        kernel = (case.size, case.size, case.map[-1], 3)
        return {
            "x": rng.normal(size=(*case.batch, *case.map)),
            "kernel": rng.normal(size=kernel),
        }


def test_it_is_the_gradient_of_a_strided_convolution():
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 2, 5), (4, 4, 6, 5))
    )

    def forward(y):
        return jnp.vdot(ops.conv2d(y, kernel, stride=2, padding=1), x)

    expected = jax.grad(forward)(jnp.zeros((6, 4, 6)))
    actual = ops.conv_transpose2d(x, jnp.swapaxes(kernel, 2, 3), padding=1)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)

"""The depthwise convolution of InceptionNeXt: equal to a full one, in either order."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class InceptionDepthwiseConv2dTest(OpSuite):
    op = ops.inception_depthwise_conv2d
    reference = reference.inception_depthwise_conv2d
    cases = (
        OpCase(shape=(2, 5, 4, 8), groups=(1, 1, 1), full=True),
        OpCase(shape=(3, 6, 6), groups=(2, 1, 3), options={"identity": "last"}),
        OpCase(shape=(1, 2, 3, 2, 7), groups=(1, 2, 2), options={"identity": "last"}),
    )
    errors = (
        ({"square": jnp.ones((3, 3, 1, 7))}, ValueError, r"need at least 9"),
        ({"row": jnp.ones((3, 1, 1, 1))}, ValueError, r"row has shape .*\[1, b, 1, H\]"),
        ({"column": jnp.ones((1, 3, 1, 1))}, ValueError, r"column has shape .*\[a, 1, 1, J\]"),
        ({"square": jnp.ones((3, 3, 2, 1))}, ValueError, r"square has shape .*\[k, k, 1, G\]"),
        ({"identity": "middle"}, ValueError, "identity='middle' is not one of"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        square, row, column = case.groups
        return {
            "x": rng.normal(size=case.shape),
            "square": rng.normal(size=(3, 3, 1, square)),
            "row": rng.normal(size=(1, 5, 1, row)),
            "column": rng.normal(size=(5, 1, 1, column)),
        }

    def test_the_orders_differ_by_where_the_channels_lie(self):
        rng = np.random.default_rng(0)
        args = self.make_args(rng, self.cases[0])
        x, *kernels = (jnp.asarray(x, jnp.float32) for x in args.values())
        first = ops.inception_depthwise_conv2d(x, *kernels)
        moved = jnp.concatenate([x[..., 5:], x[..., :5]], -1)
        last = ops.inception_depthwise_conv2d(moved, *kernels, identity="last")
        chex.assert_trees_all_close(jnp.concatenate([first[..., 5:], first[..., :5]], -1), last)
        chex.assert_trees_all_equal(first[..., :5], x[..., :5])

"""Adaptive pooling against its windows."""

import chex
import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class AdaptiveAvgPool2dTest(OpSuite):
    op = ops.adaptive_avg_pool2d
    reference = reference.adaptive_avg_pool2d
    cases = (
        OpCase(batch=(2,), full=True, grid=(5, 4), options={"size": (2, 3)}),
        OpCase(grid=(6, 4), options={"size": (2, 2)}),
        OpCase(batch=(1, 2), grid=(1, 3), options={"size": (2, 5)}),
    )
    errors = (({"size": (0, 2)}, ValueError, "expected two positive numbers"),)

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.grid, 3))}

    def test_the_maps_own_size_changes_nothing(self):
        x = jnp.arange(24.0).reshape(2, 4, 3)
        chex.assert_trees_all_equal(ops.adaptive_avg_pool2d(x, (2, 4)), x)

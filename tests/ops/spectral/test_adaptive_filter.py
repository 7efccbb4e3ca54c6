"""Adaptive frequency filters are circular convolutions with a kernel that the map sets."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class AdaptiveFrequencyFilterTest(OpSuite):
    op = ops.adaptive_frequency_filter
    reference = reference.adaptive_frequency_filter
    cases = (
        OpCase(batch=(2,), map=(3, 4, 4), groups=2, width=2, full=True),
        OpCase(map=(2, 3, 2), groups=1, width=3, options={"threshold": 0.0}),
        OpCase(batch=(1, 2), map=(1, 2, 2), groups=2, width=1, options={"threshold": 0.5}),
    )
    errors = (
        ({"kernel": lambda k: k[:, :1]}, ValueError, "with G I = 4 channels"),
        ({"bias": lambda b: b[:1]}, ValueError, r"bias has shape .*\[2, G, J\]"),
        ({"out_kernel": lambda k: k[..., :1]}, ValueError, "out_kernel has shape"),
        ({"out_bias": lambda b: b[..., :1]}, ValueError, "out_bias has shape"),
    )

    def make_args(self, rng, case):
        channels, groups, width = case.map[-1] // case.groups, case.groups, case.width
        return {
            "x": rng.normal(size=(*case.batch, *case.map)),
            "kernel": rng.normal(size=(2, groups, channels, width)),
            "bias": rng.normal(size=(2, groups, width)),
            "out_kernel": rng.normal(size=(2, groups, width, channels)),
            "out_bias": rng.normal(size=(2, groups, channels)),
        }


def test_small_masks_let_nothing_pass():
    rng = np.random.default_rng(0)
    shapes = ((2, 2, 2, 2), (2, 2, 2), (2, 2, 2, 2), (2, 2, 2))
    weights = [jnp.asarray(1e-3 * rng.normal(size=shape), jnp.float32) for shape in shapes]
    y = ops.adaptive_frequency_filter(jnp.ones((4, 4, 4)), *weights)
    chex.assert_trees_all_close(y, jnp.zeros((4, 4, 4)), atol=1e-6)

"""Small-kernel aggregation against unfolded neighbourhoods."""

import chex
import jax
import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SmallKernelAggregationTest(OpSuite):
    op = ops.small_kernel_aggregation
    reference = reference.small_kernel_aggregation
    cases = (
        OpCase(batch=(2,), map=(3, 4, 4), groups=2, taps=9, full=True),
        OpCase(map=(2, 1, 3), groups=1, taps=25),
        OpCase(batch=(1, 2), map=(2, 2, 2), groups=2, taps=1),
    )
    errors = (
        ({"weights": lambda w: w[..., :8]}, ValueError, "taps be those of an odd square"),
        ({"x": lambda x: x[..., :3]}, ValueError, "must divide the 3 channels"),
        ({"x": lambda x: x[:, 1:]}, ValueError, r"weights has shape .*\[\*B, Y, X, G, W\]"),
    )

    def make_args(self, rng, case):
        pixels = (*case.batch, *case.map[:2])
        return {
            "x": rng.normal(size=(*case.batch, *case.map)),
            "weights": rng.normal(size=(*pixels, case.groups, case.taps)),
        }


def test_the_gradient_keeps_no_map_for_every_tap():
    x = jax.ShapeDtypeStruct((8, 16, 16, 32), jnp.float32)
    weights = jax.ShapeDtypeStruct((8, 16, 16, 4, 9), jnp.float32)
    pull = jax.eval_shape(lambda x, w: jax.vjp(ops.small_kernel_aggregation, x, w)[1], x, weights)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
    chex.assert_equal(kept, x.size + weights.size)

"""SMT's mixed heads and their aggregation: equal to a full convolution and to a shuffle."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class MixedHeadConv2dTest(OpSuite):
    op = ops.mixed_head_conv2d
    reference = reference.mixed_head_conv2d
    cases = (
        OpCase(shape=(2, 3, 4, 4), sizes=(1, 3), full=True),
        OpCase(shape=(3, 6, 6), sizes=(3, 1, 7)),
    )
    errors = (
        ({"kernels": [jnp.ones((3, 3, 1, 3))]}, ValueError, r"kernels of \[3\] channels need 3"),
        ({"kernels": [jnp.ones((3, 3, 2, 2))] * 2}, ValueError, r"expected \[k, k, 1, G\]"),
        ({"kernels": []}, ValueError, r"kernels has shapes \[\]"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        width = case.shape[-1] // len(case.sizes)
        kernels = [rng.normal(size=(size, size, 1, width)) for size in case.sizes]
        return {"x": rng.normal(size=case.shape), "kernels": kernels}


class ScaleAwareAggregationTest(OpSuite):
    op = ops.scale_aware_aggregation
    reference = reference.scale_aware_aggregation
    cases = (
        OpCase(shape=(2, 1, 3, 6), kernel=(2, 3, 4), full=True),
        OpCase(shape=(1, 2, 8), kernel=(4, 2, 1)),
        OpCase(shape=(1, 2, 2, 1, 3), kernel=(1, 3, 2)),
    )
    errors = (
        ({"kernel": jnp.ones((2, 4, 4))}, ValueError, r"expected \[H, G, E\] with H G = 6"),
        ({"kernel": jnp.ones((6, 4))}, ValueError, r"kernel has shape \(6, 4\)"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=case.shape), "kernel": rng.normal(size=case.kernel)}

    def test_a_group_sees_its_channel_of_every_head(self):
        rng = np.random.default_rng(0)
        heads, width, outputs = 4, 3, 8
        x = jnp.asarray(rng.normal(size=(1, 1, heads * width)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(heads, width, outputs)), jnp.float32)
        jacobian = jax.jacobian(ops.scale_aware_aggregation)(x, kernel)
        seen = jacobian.reshape(width, outputs, heads, width) != 0
        chex.assert_trees_all_equal(
            np.asarray(seen),
            np.broadcast_to(np.eye(width, dtype=bool)[:, None, None], seen.shape),
        )

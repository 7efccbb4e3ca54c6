"""Selective kernels: gates of channels and of rows, which sum to one over branches."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SelectiveKernelTest(OpSuite):
    op = ops.selective_kernel
    reference = reference.selective_kernel
    cases = (
        OpCase(batch=(2,), shape=(2, 3, 2, 4), width=4, full=True, biased=True),
        OpCase(shape=(3, 2, 2, 1), width=2, options={"by": "rows"}, biased=True),
        OpCase(batch=(1, 2), shape=(2, 3, 1, 2), width=3, options={"by": "rows"}),
    )
    errors = (
        ({"by": "columns"}, ValueError, "by='columns' is not one of"),
        ({"by": "rows"}, ValueError, "with D = 3 rows"),
        ({"excite": lambda e: e[1:]}, ValueError, r"excite has shape .*\[n, R, D\]"),
        ({"squeeze_bias": jnp.ones(1)}, ValueError, "squeeze_bias has shape"),
        ({"excite_bias": jnp.ones(4)}, ValueError, "excite_bias has shape"),
    )

    def make_args(self, rng, case):
        count = case.shape[0]
        args = {
            "branches": rng.normal(size=(*case.batch, *case.shape)),
            "squeeze": rng.normal(size=(case.width, 3)),
            "excite": rng.normal(size=(count, 3, case.width)),
        }
        if hasattr(case, "biased"):
            args["squeeze_bias"] = rng.normal(size=3)
            args["excite_bias"] = rng.normal(size=(count, case.width))
        return args


def test_equal_branches_pass_whatever_the_gates():
    """The gates of each channel and of each row sum to one."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 5, 6)), jnp.float32)
    for by, width in (("channels", 6), ("rows", 4)):
        squeeze = jnp.asarray(rng.normal(size=(width, 2)), jnp.float32)
        excite = jnp.asarray(rng.normal(size=(3, 2, width)), jnp.float32)
        y = ops.selective_kernel(jnp.stack([x] * 3), squeeze, excite, by=by)
        chex.assert_trees_all_close(y, x, rtol=1e-5, atol=1e-6)

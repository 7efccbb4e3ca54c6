"""Gates between neighbours."""

import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class GatedPairwisePoolTest(OpSuite):
    op = ops.gated_pairwise_pool
    reference = reference.gated_pairwise_pool
    cases = (
        OpCase(batch=(2,), length=5, gates=3, biased=True, full=True),
        OpCase(length=1, gates=3),
        OpCase(batch=(1, 2), length=4, gates=1),
    )
    errors = (
        ({"kernel": lambda w: w[1:]}, ValueError, r"kernel has shape .*\[6, 1\] or \[6, 3\]"),
        ({"bias": lambda b: b[1:]}, ValueError, "bias has shape"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, case.length, 3)),
            "kernel": rng.normal(size=(6, case.gates)),
        }
        return args | ({"bias": rng.normal(size=case.gates)} if hasattr(case, "biased") else {})


def test_what_goes_on_lies_between_the_two():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((8, 3), (6, 3)))
    y = ops.gated_pairwise_pool(x, kernel)
    first, second = x[::2], x[1::2]
    assert (y <= jnp.maximum(first, second)).all()
    assert (y >= jnp.minimum(first, second)).all()
    np.testing.assert_allclose(ops.gated_pairwise_pool(x, 0 * kernel, jnp.full(3, 99.0)), first)

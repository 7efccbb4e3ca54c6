"""Shifts in eight directions: a depthwise convolution with kernels of a single one."""

import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class ShiftEightTest(OpSuite):
    op = ops.shift_eight
    reference = reference.shift_eight
    cases = (
        OpCase(batch=(2,), map=(3, 2, 8), full=True),
        OpCase(map=(1, 4, 8), options={"steps": 2}),
    )
    errors = (
        ({"x": lambda x: x[..., 1:]}, ValueError, "8 must divide its channels"),
        ({"steps": 0}, ValueError, "steps=0"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.map))}


def test_the_reach_grows_by_one_a_block():
    """Products over channels between shifts: after n of them a pixel reaches n away, no further."""
    x = jnp.zeros((9, 9, 8)).at[4, 4].set(1.0)
    for reach in (1, 2, 3):
        x = ops.shift_eight(jnp.broadcast_to(x.sum(-1, keepdims=True), x.shape))
        rows, columns = jnp.nonzero(x.sum(-1))
        assert int(abs(rows - 4).max()) == int(abs(columns - 4).max()) == reach

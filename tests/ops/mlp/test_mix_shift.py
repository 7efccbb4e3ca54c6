"""Shifted and convolved groups of channels."""

import jax.numpy as jnp

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class MixShiftTest(OpSuite):
    op = ops.mix_shift
    reference = reference.mix_shift
    cases = (
        OpCase(
            batch=(2,),
            map=(3, 4),
            sizes=(3, 1, 1),
            widths=(1, 2, 2),
            options={"distances": (-1, 0, 2)},
            full=True,
        ),
        OpCase(map=(5, 1), sizes=(1, 1, 3, 3, 5), widths=(1,) * 5),
        OpCase(batch=(1, 2), map=(2, 3), sizes=(1,), widths=(2,), options={"distances": (7,)}),
    )
    errors = (
        ({"x": lambda x: x[..., 1:]}, ValueError, "make up those of x"),
        ({"row_kernels": lambda k: k[1:]}, ValueError, "row_kernels has shapes"),
        ({"column_kernels": lambda k: k[::-1]}, ValueError, "column_kernels has shapes"),
        ({"column_kernels": [jnp.ones((1, 1, 2, 1))] * 3}, ValueError, r"\[size, size, 1, C_i\]"),
    )

    def make_args(self, rng, case):
        def kernels():
            return [rng.normal(size=(n, n, 1, c)) for n, c in zip(case.sizes, case.widths)]

        x = rng.normal(size=(*case.batch, *case.map, sum(case.widths)))
        return {"x": x, "row_kernels": kernels(), "column_kernels": kernels()}

"""Convolution over a grid of two sequences."""

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class CausalConv2dTest(OpSuite):
    op = ops.causal_conv2d
    reference = reference.causal_conv2d
    cases = (
        OpCase(batch=(2,), map=(3, 2), sizes=(2, 3), biased=True, full=True),
        OpCase(map=(4, 1), sizes=(2, 1), options={"dilation": 2}),
    )
    errors = (
        ({"kernel": lambda w: w[:, 1:]}, ValueError, "kernel has shape .*odd ks"),
        ({"bias": lambda b: b[1:]}, ValueError, "bias has shape"),
        ({"dilation": 0}, ValueError, "dilation=0"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, *case.map, 2)),
            "kernel": rng.normal(size=(*case.sizes, 2, 3)),
        }
        return args | ({"bias": rng.normal(size=3)} if hasattr(case, "biased") else {})

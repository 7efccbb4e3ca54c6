"""Mixing by the Fourier transform, against its matrix."""

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class FourierTokenMixingTest(OpSuite):
    op = ops.fourier_token_mixing
    reference = reference.fourier_token_mixing
    cases = (
        OpCase(batch=(2,), sizes=(5, 4), full=True),
        OpCase(sizes=(1, 3), options={"scale": 1.0}),
        OpCase(batch=(1, 2), sizes=(7, 1)),
    )
    errors = (({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),)

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.sizes))}

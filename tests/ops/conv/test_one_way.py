"""Convolutions of one-way filters, against the one with the kernel that these make."""

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class CpConv2dTest(OpSuite):
    op = ops.cp_conv2d
    reference = reference.cp_conv2d
    cases = (
        OpCase(batch=(2,), map=(3, 4), sizes=(3, 3), full=True),
        OpCase(map=(4, 2), sizes=(1, 5)),
    )
    errors = (
        ({"rows": lambda z: z[:, 1:]}, ValueError, "rows has shape"),
        ({"outputs": lambda z: z[1:]}, ValueError, "outputs has shape"),
        ({"channels": lambda z: z[1:]}, ValueError, r"channels has shape .*\[C, R\]"),
    )

    def make_args(self, rng, case):
        shapes = {"channels": (3, 2), "outputs": (2, 4)}
        shapes |= {name: (size, 2) for name, size in zip(("rows", "columns"), case.sizes)}
        args = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        return {"x": rng.normal(size=(*case.batch, *case.map, 3)), **args}

"""Linear maps over blocks and over grids."""

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class _Mix(OpSuite):
    """Suites of both maps."""

    __test__ = False
    errors = (
        ({"x": lambda x: x[0, :, 0]}, ValueError, "x has shape"),
        ({"kernel": lambda w: w[1:]}, ValueError, r"kernel has shape .*\[P, P\]"),
        ({"bias": lambda b: b[1:]}, ValueError, r"bias has shape .*\[P\]"),
    )

    def make_args(self, rng, case):
        rows, columns = next(iter(case.options.values()))
        args = {
            "x": rng.normal(size=(*case.batch, *case.map, 2)),
            "kernel": rng.normal(size=(rows * columns, rows * columns)),
        }
        if getattr(case, "biased", True):
            args["bias"] = rng.normal(size=rows * columns)
        return args


def _cases(name):
    return (
        OpCase(batch=(2,), map=(3, 5), options={name: (2, 3)}, full=True),
        OpCase(map=(4, 6), options={name: (2, 3)}, biased=False),
        OpCase(batch=(1, 2), map=(1, 7), options={name: (3, 2)}),
    )


class BlockMixTest(_Mix):
    __test__ = True
    op = ops.block_mix
    reference = reference.block_mix
    cases = _cases("block_size")
    errors = (*_Mix.errors, ({"block_size": (0, 3)}, ValueError, "block_size="))


class GridMixTest(_Mix):
    __test__ = True
    op = ops.grid_mix
    reference = reference.grid_mix
    cases = _cases("grid_size")
    errors = (*_Mix.errors, ({"grid_size": 2}, ValueError, "grid_size=2"))

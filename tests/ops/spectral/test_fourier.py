"""The Fourier layer: sums over waves, factors against their product, any resolution."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

SMALL = {"inputs": 2, "outputs": 3}


def complexes(rng, *shape):
    return rng.normal(size=(*shape, 2))


class FourierSuite(OpSuite):
    __test__ = False

    def make_args(self, rng, case):
        x = rng.normal(size=(*case.batch, *case.grid, case.inputs))
        return {"x": x, **self.weights(rng, case)}


class FourierConv2dTest(FourierSuite):
    op = ops.fourier_conv2d
    reference = reference.fourier_conv2d
    cases = (
        OpCase(batch=(2,), grid=(5, 4), modes=(3, 2), full=True, **SMALL),
        # More modes than the map has, an odd map, a single mode.
        OpCase(grid=(3, 5), modes=(4, 9), **SMALL),
        OpCase(batch=(1, 2), grid=(4, 1), modes=(1, 1), **SMALL),
    )
    errors = (
        ({"weight": lambda w: w[..., :1]}, ValueError, r"weight has shape .*\[M, N, I, O, 2\]"),
        ({"weight": lambda w: w[:, :, 1:]}, ValueError, "with I = 2"),
    )

    def weights(self, rng, case):
        return {"weight": complexes(rng, *case.modes, case.inputs, case.outputs)}


class TuckerFourierConv2dTest(FourierSuite):
    op = ops.tucker_fourier_conv2d
    reference = reference.tucker_fourier_conv2d
    cases = (OpCase(batch=(2,), grid=(3, 4), modes=(2, 2), ranks=(2, 1, 2, 2), full=True, **SMALL),)
    errors = (
        ({"core": lambda c: c[..., :1]}, ValueError, "core has shape"),
        ({"rows": lambda r: r[:, 1:]}, ValueError, "rows has shape"),
        ({"inputs": lambda i: i[1:]}, ValueError, r"inputs has shape .*\[I, R, 2\]"),
    )

    def weights(self, rng, case):
        sizes = (*case.modes, case.inputs, case.outputs)
        names = ("rows", "columns", "inputs", "outputs")
        factors = zip(names, sizes, case.ranks)
        core = complexes(rng, *case.ranks)
        return {"core": core} | {name: complexes(rng, *shape) for name, *shape in factors}


class CpFourierConv2dTest(FourierSuite):
    op = ops.cp_fourier_conv2d
    reference = reference.cp_fourier_conv2d
    cases = (OpCase(batch=(2,), grid=(3, 4), modes=(2, 2), rank=2, full=True, **SMALL),)
    errors = (
        ({"scale": lambda s: s[1:]}, ValueError, "rows has shape"),
        ({"columns": lambda c: c[..., 0]}, ValueError, r"columns has shape .*\[size, R, 2\]"),
        ({"inputs": lambda i: i[1:]}, ValueError, "inputs has shape"),
    )

    def weights(self, rng, case):
        sizes = (*case.modes, case.inputs, case.outputs)
        names = ("rows", "columns", "inputs", "outputs")
        factors = {name: complexes(rng, size, case.rank) for name, size in zip(names, sizes)}
        return {"scale": complexes(rng, case.rank), **factors}


def test_a_wave_sampled_more_finely_gives_the_same_wave():
    """Whatever the map holds below the modes: at twice and at two thirds of the resolution."""
    rng = np.random.default_rng(0)
    coefficients = complexes(rng, 3, 2, 2).view(complex)[..., 0]
    weight = jnp.asarray(complexes(rng, 3, 2, 2, 2), jnp.float32)

    def sampled(rows, columns):
        y, x = np.arange(rows)[:, None] / rows, np.arange(columns)[None] / columns
        total = 0
        for f in (-1, 0, 1):
            for g in (0, 1):
                wave = np.exp(2j * np.pi * (f * y + g * x))[..., None]
                total = total + (wave * coefficients[f + 1, g]).real
        return jnp.asarray(total, jnp.float32)

    whole = ops.fourier_conv2d(sampled(12, 12), weight)
    for grid, steps in (((6, 6), (2, 2)), ((4, 12), (3, 1))):
        found = ops.fourier_conv2d(sampled(*grid), weight)
        chex.assert_trees_all_close(found, whole[:: steps[0], :: steps[1]], atol=1e-5)

"""Kernels of long convolutions: multi-scale, of points, squashed and smoothed."""

import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SgconvKernelTest(OpSuite):
    op = ops.sgconv_kernel
    reference = reference.sgconv_kernel
    cases = (
        OpCase(scales=3, options={"length": 13}, full=True),
        OpCase(scales=2, options={"length": 20, "arrangement": "sum"}),
        OpCase(scales=1, options={"length": 2, "interpolation": "nearest"}),
    )
    errors = (
        ({"arrangement": "mean"}, ValueError, "arrangement='mean' is not one of"),
        ({"weights": lambda w: w[0]}, ValueError, "weights has shape"),
    )

    def make_args(self, rng, case):
        return {
            "weights": rng.normal(size=(case.scales, 4, 3)),
            "multiplier": rng.uniform(1, 2, size=3),
        }


class PointKernelTest(OpSuite):
    op = ops.point_kernel
    reference = reference.point_kernel
    cases = (
        OpCase(length=7, group=(), grid=(4, 3), full=True),
        OpCase(length=7, group=(2,), grid=(9,), options={"averaged": True}),
    )
    errors = (({"radius": lambda r: r[1:]}, ValueError, "positions have shape"),)
    differentiable = ("positions", "radius", "weights")

    def make_args(self, rng, case):
        dims = len(case.grid)
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in case.grid), indexing="ij")
        return {
            "coordinates": np.stack(axes, -1),
            "positions": rng.uniform(-1, 1, size=(*case.group, 5, dims)),
            "radius": rng.uniform(0.5, 1, size=(*case.group, 5)),
            "weights": rng.normal(size=(5, 2)),
        }


class SquashKernelTest(OpSuite):
    op = ops.squash_kernel
    reference = reference.squash_kernel
    cases = (OpCase(full=True),)
    errors = (({"threshold": np.ones(2)}, ValueError, r"threshold has shape \(2,\)"),)

    def make_args(self, rng, case):
        return {"kernel": rng.normal(size=(6, 2)), "threshold": np.asarray(0.3)}


class SmoothKernelTest(OpSuite):
    op = ops.smooth_kernel
    reference = reference.smooth_kernel
    cases = (OpCase(full=True, options={"width": 3}), OpCase(options={"width": 7}))
    errors = (({"width": 2}, ValueError, "width=2 must be odd"),)

    def make_args(self, rng, case):
        return {"kernel": rng.normal(size=(6, 2))}


def test_the_norm_halves_with_every_doubling():
    weights = np.random.default_rng(0).normal(size=(5, 512, 1))
    kernel = ops.sgconv_kernel(jnp.asarray(weights, jnp.float32), length=512 * 16)[:, 0]
    pieces = [kernel[512 * 2**i : 512 * 2 ** (i + 1)] for i in range(1, 4)]
    sizes = np.array([float(jnp.sqrt(jnp.mean(piece**2))) for piece in pieces])
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 0.5, atol=0.05)


def test_points_of_one_cell_make_any_kernel():
    dense = np.random.default_rng(0).normal(size=(5, 2))
    grid = jnp.linspace(-1, 1, 5)[:, None]
    cell = jnp.full(5, 0.5)
    kernel = ops.point_kernel(grid, grid, cell, jnp.asarray(dense, jnp.float32))
    np.testing.assert_allclose(kernel, dense, rtol=1e-5)

"""Cross-scan, its merge, and the multi-scale pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.scan.cross import DIRECTIONS
from scanmax.testing import OpCase, OpSuite


class CrossScanTest(OpSuite):
    op = ops.cross_scan
    reference = reference.cross_scan
    required_lengths = ()
    cases = (
        OpCase(grid=(3, 4), batch=(2,), full=True),
        OpCase(grid=(2, 1), options={"directions": 2}),
        OpCase(grid=(2, 3), batch=(1, 2), options={"directions": ("columns", "rows")}),
    )
    errors = (
        ({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),
        ({"directions": 3}, ValueError, "directions=3 is not one of 1, 2, 4"),
        ({"directions": ("up",)}, ValueError, "directions='up' is not one of 'rows'"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.grid, 2))}


class CrossMergeTest(OpSuite):
    op = ops.cross_merge
    reference = reference.cross_merge
    required_lengths = ()
    cases = (
        OpCase(count=4, batch=(2,), full=True, options={"grid": (3, 4)}),
        OpCase(count=2, options={"grid": (2, 3)}),
        OpCase(count=1, batch=(1, 2), options={"grid": (3, 1), "directions": ("columns",)}),
    )
    errors = (
        ({"y": lambda y: y[..., :5, :]}, ValueError, r"y has shape .*T = 3 \* 4"),
        ({"directions": 2}, ValueError, r"y has shape .*R = 2 directions"),
    )

    def make_args(self, rng, case):
        pixels = np.prod(case.options["grid"])
        return {"y": rng.normal(size=(*case.batch, case.count, pixels, 2))}


class MultiScaleScanTest(OpSuite):
    op = ops.multi_scale_scan
    reference = reference.multi_scale_scan
    required_lengths = ()
    cases = (
        OpCase(grid=(4, 5), small=(2, 3), batch=(2,), full=True),
        OpCase(grid=(1, 2), small=(1, 1)),
        OpCase(grid=(2, 2), small=(2, 1), batch=(1, 2)),
    )
    errors = (({"small": lambda x: x[..., :1]}, ValueError, "small has shape"),)

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, *case.grid, 2)),
            "small": rng.normal(size=(*case.batch, *case.small, 2)),
        }


class MultiScaleMergeTest(OpSuite):
    op = ops.multi_scale_merge
    reference = reference.multi_scale_merge
    required_lengths = ()
    cases = (
        OpCase(batch=(2,), full=True, options={"grid": (4, 5), "small_grid": (2, 3)}),
        OpCase(options={"grid": (1, 3), "small_grid": (1, 1)}),
        OpCase(batch=(1, 2), options={"grid": (7, 2), "small_grid": (4, 2)}),
    )
    errors = (
        ({"full": lambda x: x[..., :3, :]}, ValueError, "full has shape"),
        ({"small": lambda x: x[..., :2, :, :]}, ValueError, "small has shape"),
        ({"small_grid": (6, 1)}, ValueError, r"small_grid=\(6, 1\) is larger than"),
    )

    def make_args(self, rng, case):
        tokens, small = (np.prod(case.options[name]) for name in ("grid", "small_grid"))
        return {
            "full": rng.normal(size=(*case.batch, tokens, 2)),
            "small": rng.normal(size=(*case.batch, 3, small, 2)),
        }


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("directions", [1, 2, 4, DIRECTIONS[1:]])
def test_the_merge_is_the_adjoint_of_the_scan(directions):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 2)))
    scan = lambda x: ops.cross_scan(x, directions=directions)  # noqa: E731
    sequences, pull_back = jax.vjp(scan, x)
    y = jnp.asarray(rng.normal(size=sequences.shape))
    merged = ops.cross_merge(y, (3, 4), directions=directions)
    np.testing.assert_allclose(merged, pull_back(y)[0], rtol=1e-10)
    merged = ops.cross_merge(sequences, (3, 4), directions=directions)
    np.testing.assert_allclose(merged, sequences.shape[1] * x, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_map_of_equal_size_gives_the_cross_scan():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 2)))
    full, small = ops.multi_scale_scan(x, x)
    y = jnp.concatenate([full[:, None], small], 1)
    order = ("rows", "rows_reversed", "columns", "columns_reversed")
    np.testing.assert_array_equal(y, ops.cross_scan(x, directions=order))
    merged = ops.multi_scale_merge(full, small, (3, 4), (3, 4))
    expected = ops.cross_merge(y, (3, 4), directions=order)
    np.testing.assert_allclose(merged, expected, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_nc_ssd_is_what_all_scans_become_without_decay():
    """Forward and backward, or four ways, collapse to one sum, the diagonal counted once."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    x, B, C = draw(12, 2, 3), draw(12, 1, 4), draw(12, 1, 4)
    dt, A = jnp.abs(draw(12, 2)), -jnp.abs(draw(2))
    weights = -dt * A[None]
    expected = ops.nc_ssd(x, dt, A, B, C)
    own = jnp.einsum("tgn,tgn->t", B, C)[:, None, None] * weights[..., None] * x

    def read(y, directions):
        maps = y.reshape(3, 4, -1)
        sequences = ops.cross_scan(maps, directions=directions)
        return sequences.reshape(*sequences.shape[:2], *y.shape[1:])

    for directions in (2, 4):
        arrays = [read(y, directions) for y in (x, weights, B, C)]
        y = ops.ssd(*arrays[:2], jnp.zeros(2), *arrays[2:])
        merged = ops.cross_merge(y.reshape(directions, 12, -1), (3, 4), directions=directions)
        once = merged.reshape(x.shape) / (directions // 2) - own
        np.testing.assert_allclose(once, expected, rtol=1e-10, atol=1e-10)

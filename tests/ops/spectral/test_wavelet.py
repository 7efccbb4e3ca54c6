"""The Haar transform: its matrix, its inverse, what it preserves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class HaarDwt2Test(OpSuite):
    op = ops.haar_dwt2
    reference = reference.haar_dwt2
    cases = (
        OpCase(batch=(2,), map=(5, 4, 2), options={"levels": 2}, full=True),
        OpCase(map=(1, 3, 2)),
    )
    errors = (
        ({"levels": 0}, ValueError, "levels=0"),
        ({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, *case.map))}


class HaarIdwt2Test(OpSuite):
    op = ops.haar_idwt2
    reference = reference.haar_idwt2
    cases = (
        OpCase(batch=(2,), sizes=((3, 2), (2, 1)), options={"grid": (5, 4)}, full=True),
        OpCase(sizes=((2, 1),)),
    )
    errors = (
        ({"details": ()}, ValueError, "details is empty"),
        ({"grid": (7, 4)}, ValueError, "details has shape"),
        ({"low": lambda low: low[..., 1:]}, ValueError, "details has shape"),
        ({"low": lambda low: low[:, 1:]}, ValueError, "low has shape"),
        ({"grid": 5}, ValueError, "grid=5"),
    )

    def make_args(self, rng, case):
        def bands(size, *last):
            return rng.normal(size=(*case.batch, *size, 2, *last))

        return {
            "low": bands(case.sizes[-1]),
            "details": tuple(bands(size, 3) for size in case.sizes),
        }


@pytest.mark.parametrize(("grid", "levels"), [((8, 16), 3), ((7, 5), 3), ((1, 1), 2)])
def test_nothing_is_lost(grid, levels):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *grid, 3)))
        low, details = ops.haar_dwt2(x, levels=levels)
        back = ops.haar_idwt2(low, details, grid=grid)
        chex.assert_trees_all_close(back, x, rtol=1e-14, atol=1e-14)
        energy = sum(jnp.sum(band**2) for band in (low, *details))
        chex.assert_trees_all_close(energy, jnp.sum(x**2), rtol=1e-13)

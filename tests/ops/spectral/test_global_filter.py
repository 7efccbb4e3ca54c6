"""Global filters: circular convolutions, and the same filter for maps of any size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class GlobalFilterTest(OpSuite):
    op = ops.global_filter
    reference = reference.global_filter
    cases = (
        OpCase(shape=(2, 3, 4, 2), full=True),
        OpCase(shape=(4, 5, 3)),
        OpCase(shape=(1, 2, 1, 1, 2)),
    )
    errors = (
        ({"weight": lambda w: w[1:]}, ValueError, r"weight has shape \(2, 3, 2, 2\); expected"),
        ({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),
    )

    def make_args(self, rng, case):
        rows, columns, channels = case.shape[-3:]
        weight = rng.normal(size=(rows, columns // 2 + 1, channels, 2))
        return {"x": rng.normal(size=case.shape), "weight": weight}


class ResampleFilterTest(OpSuite):
    op = ops.resample_filter
    reference = reference.resample_filter
    cases = (
        OpCase(options={"grid": (3, 4), "new_grid": (5, 7)}, full=True),
        OpCase(options={"grid": (4, 5), "new_grid": (2, 3)}),
        OpCase(options={"grid": (1, 1), "new_grid": (3, 2)}),
        OpCase(options={"grid": (2, 3), "new_grid": (2, 3)}),
    )
    errors = (
        ({"weight": lambda w: w[1:]}, ValueError, r"expected .* with grid=\(3, 4\)"),
        ({"new_grid": (0, 2)}, ValueError, r"new_grid=\(0, 2\)"),
        ({"grid": 3}, ValueError, "grid=3"),
    )

    def make_args(self, rng, case):
        rows, columns = case.options["grid"]
        return {"weight": rng.normal(size=(rows, columns // 2 + 1, 2, 2))}


def test_a_wave_keeps_its_gain_on_a_larger_map():
    # cos of an eighth of a cycle a pixel lies on both grids.
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 1, 2)), jnp.float32)
    wave = jnp.cos(2 * jnp.pi * jnp.arange(16) / 8)
    maps = jnp.broadcast_to(wave[None, :, None], (16, 16, 1))
    small = ops.global_filter(maps[:8, :8], weight)
    large = ops.global_filter(maps, ops.resample_filter(weight, (8, 8), (16, 16)))
    chex.assert_trees_all_close(large[:8, :8], small, atol=1e-5)


def test_it_costs_no_matrix_over_tokens():
    x = jax.ShapeDtypeStruct((64, 64, 2), jnp.float32)
    weight = jax.ShapeDtypeStruct((64, 33, 2, 2), jnp.float32)
    memory = jax.jit(ops.global_filter).lower(x, weight).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40 * 4 * 64 * 64 * 2

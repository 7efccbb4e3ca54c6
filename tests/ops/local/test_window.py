"""Windows and halos against dense masked attention, and against rolled maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_maps import MatrixCase, make_maps

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class WindowAttentionTest(OpSuite):
    op = ops.window_attention
    reference = reference.window_attention
    cases = (
        # rolled along the rows, cut along the columns
        OpCase(
            grid=(6, 5),
            batch=(2,),
            heads=(4, 2),
            globals=2,
            scale=0.7,
            table=(5, 5),
            options={"window_size": 3, "shift": 1},
            full=True,
        ),
        OpCase(grid=(6, 5), table=(5, 5), options={"window_size": 3, "normalizer": "sigmoid"}),
        # smaller than a window in one direction
        OpCase(grid=(2, 6), table=(9, 9), options={"window_size": 5, "shift": 2}),
    )
    errors = (
        ({"window_size": 0}, ValueError, "window_size=0; expected an integer of at least 1"),
        ({"shift": 7}, ValueError, "shift=7 with window_size"),
        ({"relative_bias": lambda x: x[:2]}, ValueError, "relative_bias has shape"),
        ({"value": lambda x: x[:, :2]}, ValueError, "value has shape"),
    )

    def make_args(self, rng, case):
        return make_maps(rng, case, getattr(case, "table", None))

    def test_rolled_and_cut_windows_are_the_same(self):
        # a map of one more row cannot be rolled; its other windows are those of the smaller map
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(7, 6, 1, 4)))
        options = {"window_size": 3, "shift": 2}
        cut = ops.window_attention(x, x, x, **options)
        rolled = ops.window_attention(*(x[:6],) * 3, **options)
        compare.assert_relative(cut[:5], rolled[:5], 1e-12)


class HaloAttentionTest(OpSuite):
    op = ops.halo_attention
    reference = reference.halo_attention
    cases = (
        OpCase(
            grid=(5, 4),
            batch=(2,),
            heads=(4, 2),
            globals=2,
            scale=0.7,
            options={"block_size": (2, 3), "halo": (1, 2), "edges": "zero"},
            full=True,
        ),
        OpCase(
            grid=(5, 4),
            options={"block_size": 2, "halo": 1, "normalizer": "stablemax"},
        ),
        OpCase(grid=(1, 3), batch=(1, 2), options={"block_size": 2, "halo": 0}),
        OpCase(grid=(7, 6), options={"block_size": (4, 3), "halo": 1, "stride": (2, 3)}),
        OpCase(
            grid=(7, 6), options={"block_size": 4, "halo": (1, 2), "stride": 2, "edges": "zero"}
        ),
    )
    errors = (
        ({"block_size": 0}, ValueError, "block_size=0; expected"),
        ({"stride": (1, 2)}, ValueError, "with block_size=.* expected a divisor"),
        ({"halo": -1}, ValueError, "halo=-1; expected an integer of at least 0"),
        ({"relative_rows": None}, ValueError, "given together"),
        ({"relative_rows": lambda x: x[1:]}, ValueError, "relative_rows has shape"),
        ({"edges": "clamped"}, ValueError, "edges='clamped'"),
    )

    def make_args(self, rng, case):
        blocks, halos = (
            x if isinstance(x, tuple) else (x, x)
            for x in (case.options["block_size"], case.options["halo"])
        )
        args = make_maps(rng, case)
        for name, block, halo in zip(("relative_rows", "relative_columns"), blocks, halos):
            args[name] = rng.normal(size=(2 * (block + halo) - 1, 5))
        return args


class MatricesTest(MatrixCase):
    """Matrices of windows and halos."""

    def test_window_attention_matrix(self):
        def matrix(module, **given):
            return module.window_attention_matrix(**given)

        self.check("window_attention", matrix, (3, 3), {"window_size": 2, "shift": 1})

    def test_halo_attention_matrix(self):
        def matrix(module, **given):
            return module.halo_attention_matrix(**given)

        self.check("halo_attention", matrix, None, {"block_size": 2, "halo": 1})
        options = {"block_size": (2, 3), "halo": 1, "stride": (2, 1), "edges": "zero"}
        self.check("halo_attention", matrix, None, options)


def test_a_halo_outside_the_map_is_left_out_unless_zeros_are_asked_for():
    """One pixel in a block of one, with eight neighbours of which none exists."""
    x = jnp.full((1, 1, 1, 1), 4.0)
    options = {"block_size": 1, "halo": 1}
    assert float(ops.halo_attention(0 * x, x, x, **options)[0, 0, 0, 0]) == 4.0
    zeros = ops.halo_attention(0 * x, x, x, **options, edges="zero")[0, 0, 0, 0]
    np.testing.assert_allclose(zeros, 4 / 9, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_windows_follow_a_shift_by_a_window():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12, 8, 2, 4)))
    for shift in (0, 1):
        y, moved = (
            ops.window_attention(*maps, window_size=4, shift=shift)
            for maps in (x, jnp.roll(x, 4, 1))
        )
        rows = slice(shift, shift + 4)
        np.testing.assert_allclose(moved[4:][rows], y[rows], rtol=1e-10)


def test_training_memory_of_windows_is_linear():
    def train(x):
        return jax.grad(
            lambda x: jnp.sum(ops.window_attention(x, x, x, window_size=6, shift=3) ** 2)
        )(x)

    def temporary(side):
        x = jax.ShapeDtypeStruct((side, side, 2, 16), jnp.float32)
        return jax.jit(train).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(48) < 5 * temporary(24)

"""Positions against their equations, and what their users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class RotaryTest(OpSuite):
    op = ops.rotary
    reference = reference.rotary
    differentiable = ("x",)
    cases = (
        *OpCase.lengths((1, 7, 65)),
        OpCase(
            length=7, batch=(2,), full=True, options={"layout": "interleaved", "endpoint": True}
        ),
        OpCase(length=7, batch=(2,), positions=(7,), options={"rotary_dim": 4, "base": 100.0}),
        OpCase(length=7, batch=(2, 1), positions=(2, 1, 7), options={"layout": "interleaved"}),
    )
    errors = (
        ({"layout": "pairs"}, ValueError, "'half', 'interleaved'"),
        ({"rotary_dim": 3}, ValueError, "must be even"),
        ({"rotary_dim": 8}, ValueError, "at most K"),
        ({"positions": jnp.arange(3)}, ValueError, r"positions has shape \(3,\)"),
    )

    def make_args(self, rng, case):
        positions = None
        if hasattr(case, "positions"):
            positions = rng.uniform(-50, 50, size=case.positions)
        return {"x": rng.normal(size=(*case.batch, case.length, 3, 6)), "positions": positions}

    @parameterized.parameters("half", "interleaved")
    def test_products_depend_on_the_difference_of_positions(self, layout):
        query, key = np.random.default_rng(0).normal(size=(2, 5, 1, 8))
        query, key = (jnp.broadcast_to(x[:1], x.shape) for x in (query, key))
        turned = (ops.rotary(x, jnp.arange(5) + 90, layout=layout) for x in (query, key))
        products = np.asarray(jnp.einsum("thk,shk->ts", *turned))
        for offset in range(-4, 5):
            chex.assert_trees_all_close(np.ptp(np.diagonal(products, offset)), 0.0, atol=1e-12)
        self.assertGreater(np.ptp(products), 0.1)

    def test_layouts_are_permutations_of_one_another(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1, 8)), jnp.float64)
        order = np.arange(8).reshape(2, 4).T.ravel()
        chex.assert_trees_all_close(
            ops.rotary(x[..., order], layout="interleaved"), ops.rotary(x)[..., order], atol=1e-14
        )


class Rotary2dTest(OpSuite):
    op = ops.rotary_2d
    reference = reference.rotary_2d
    cases = (
        OpCase(length=7, batch=(2,), full=True, options={"grid": (2, 3), "prefix_tokens": 1}),
        OpCase(length=6, options={"grid": (3, 2), "layout": "interleaved", "base": 100.0}),
        OpCase(length=6, options={"grid": (3, 2), "endpoint": True}),
        OpCase(length=1, batch=(1, 2), options={"grid": (1, 1)}),
    )
    errors = (
        ({"grid": (3, 3)}, ValueError, r"T = 1 \+ 3 \* 3"),
        ({"x": lambda x: x[..., :6]}, ValueError, "divisible by 4"),
        ({"layout": "pairs"}, ValueError, "'half', 'interleaved'"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, case.length, 2, 8))}

    def test_rows_and_columns_turn_their_own_half(self):
        x = jnp.ones((6, 1, 8))
        y = ops.rotary_2d(x, grid=(2, 3)).reshape(2, 3, 8)
        chex.assert_trees_all_equal(y[0, :, :4], x[:3, 0, :4])
        chex.assert_trees_all_equal(y[:, 0, 4:], x[:2, 0, 4:])
        chex.assert_trees_all_close(y[:, 0, :4], ops.rotary(x[:2, :, :4])[:, 0], atol=1e-6)


class SincosTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters("half", "interleaved")
    def test_sequences_equal_the_reference(self, layout):
        options = {"layout": layout, "base": 500.0, "dtype": jnp.float64}
        chex.assert_trees_all_close(
            ops.sincos_1d(65, 6, **options), reference.sincos_1d(65, 6, **options), atol=1e-13
        )

    @parameterized.parameters(False, True)
    def test_grids_equal_the_reference(self, endpoint):
        for grid, dim in (((2, 3), 8), ((1, 1), 4)):
            options = {"endpoint": endpoint, "dtype": jnp.float64}
            chex.assert_trees_all_close(
                ops.sincos_2d(grid, dim, **options),
                reference.sincos_2d(grid, dim, **options),
                atol=1e-13,
            )

    def test_bigger_grids_keep_the_rows_of_smaller_ones(self):
        large = ops.sincos_2d((3, 4), 8).reshape(3, 4, 8)
        chex.assert_trees_all_equal(large[:2, :3].reshape(6, 8), ops.sincos_2d((2, 3), 8))

    def test_bad_sizes_raise(self):
        for function, arguments in (
            (ops.sincos_1d, (4, 5)),
            (ops.sincos_1d, (4, 0)),
            (ops.sincos_2d, ((2, 2), 6)),
        ):
            with self.assertRaisesRegex(ValueError, f"dim={arguments[1]} must be positive"):
                function(*arguments)
        with self.assertRaisesRegex(ValueError, "'half', 'interleaved'"):
            ops.sincos_1d(4, 4, layout="pairs")


class FourierPositionsTest(parameterized.TestCase):
    @parameterized.parameters(((3, 4), 8), ((1, 1), 4), ((5, 2), 12))
    def test_codes_equal_the_reference(self, grid, dim):
        with jax.enable_x64(True):
            options = {"dtype": jnp.float64, "base": 100.0}
            chex.assert_trees_all_close(
                ops.fourier_positions(grid, dim, **options),
                reference.fourier_positions(grid, dim, **options),
                atol=1e-13,
            )

    def test_a_finer_grid_lies_between(self):
        coarse = ops.fourier_positions((1, 4), 8).reshape(4, 8)
        fine = ops.fourier_positions((1, 8), 8).reshape(8, 8)
        chex.assert_trees_all_close(fine[1::2], coarse, atol=1e-5)

    def test_bad_widths_raise(self):
        with self.assertRaisesRegex(ValueError, "dim=6 must be positive"):
            ops.fourier_positions((2, 2), 6)


class ResamplePositionsTest(OpSuite):
    op = ops.resample_positions
    reference = reference.resample_positions
    cases = tuple(
        OpCase(
            batch=batch,
            full=full,
            options={"grid": (4, 5), "new_grid": new, "prefix_tokens": 2, "method": method},
        )
        for new, method, batch, full in (
            ((7, 3), "cubic", (2,), True),
            ((7, 3), "linear", (), False),
            ((9, 11), "cubic", (1, 2), False),
            ((1, 2), "cubic", (), False),
            ((4, 5), "cubic", (), False),
        )
    )
    errors = (
        ({"prefix_tokens": 1}, ValueError, r"expected N = 1 \+ 4 \* 5"),
        ({"new_grid": (0, 2)}, ValueError, r"new_grid=\(0, 2\) must be positive"),
        ({"method": "nearest"}, ValueError, "'cubic', 'linear'"),
    )

    def make_args(self, rng, case):
        return {"table": rng.normal(size=(*case.batch, 22, 3))}

    def test_a_constant_stays_and_prefix_rows_stay(self):
        table = jnp.concatenate([jnp.arange(2.0)[:, None] + 7, jnp.ones((9, 1))])
        new = ops.resample_positions(table, (3, 3), (5, 2), prefix_tokens=2)
        chex.assert_trees_all_equal(new[:2], table[:2])
        chex.assert_trees_all_close(new[2:], jnp.ones((10, 1)), atol=1e-6)


def test_known_positions_cost_no_cosines_at_run_time():
    x = jnp.ones((2, 9, 2, 8))
    known = [
        jax.make_jaxpr(ops.rotary)(x),
        jax.make_jaxpr(lambda x: ops.rotary_2d(x, grid=(3, 3)))(x),
    ]
    assert not any(" cos " in str(jaxpr) for jaxpr in known)
    assert " cos " in str(jax.make_jaxpr(ops.rotary)(x, jnp.arange(9)))

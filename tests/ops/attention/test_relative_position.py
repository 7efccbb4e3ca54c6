"""Relative positions against their equations, and what their users rely on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class RelativePositionBiasTest(OpSuite):
    op = ops.relative_position_bias
    reference = reference.relative_position_bias
    cases = (
        OpCase(table=(2, 3), full=True, options={"grid": (2, 3), "prefix_tokens": 1}),
        OpCase(table=(4, 3), options={"grid": (2, 3), "table_grid": (4, 3)}),
        OpCase(table=(2, 3), options={"grid": (3, 2), "table_grid": (2, 3)}),
    )
    errors = (({"table": lambda x: x[1:]}, ValueError, r"table has shape \(14, 3\); expected"),)

    def make_args(self, rng, case):
        return {"table": rng.normal(size=((2 * case.table[0] - 1) * (2 * case.table[1] - 1), 3))}


class RelativePositionTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(((1, 1), None), ((2, 3), None), ((2, 2), (3, 4)))
    def test_index_equals_its_equation(self, grid, table_grid):
        actual = ops.relative_position_index(grid, table_grid)
        chex.assert_trees_all_equal(actual, reference.relative_position_index(grid, table_grid))

    @parameterized.parameters(
        ((3, 4), None, None),
        ((1, 1), None, None),
        ((4, 6), (2, 3), None),
        ((5, 7), (2, 3), (7, 7)),
    )
    def test_coordinates_equal_their_equation(self, grid, key_grid, pretrain_grid):
        options = {"pretrain_grid": pretrain_grid, "dtype": jnp.float64}
        actual, index = ops.log_spaced_coordinates(grid, key_grid, **options)
        expected = reference.log_spaced_coordinates(grid, key_grid, **options)
        chex.assert_trees_all_close(actual, expected[0], atol=1e-12)
        chex.assert_trees_all_equal(index, expected[1])

    def test_few_coordinates_serve_all_pairs(self):
        coordinates, index = ops.log_spaced_coordinates((7, 7))
        chex.assert_shape(coordinates, (13 * 13, 2))
        chex.assert_shape(index, (49, 49))
        # the farthest pair of the pretraining grid lies at log2(9) / log2(8)
        self.assertAlmostEqual(float(coordinates.max()), np.log2(9) / 3, places=6)

    def test_a_shifted_pair_has_the_same_bias(self):
        rng = np.random.default_rng(0)
        bias = ops.relative_position_bias(jnp.asarray(rng.normal(size=(7 * 5, 1))), (4, 3))[0]
        bias = bias.reshape(4, 3, 4, 3)
        chex.assert_trees_all_equal(bias[0, 0, 2, 1], bias[1, 1, 3, 2])
        self.assertNotEqual(float(bias[0, 0, 2, 1]), float(bias[2, 1, 0, 0]))

    def test_mistakes_are_told(self):
        with self.assertRaisesRegex(ValueError, "is larger than table_grid"):
            ops.relative_position_index((3, 3), (2, 3))
        with self.assertRaisesRegex(ValueError, "does not fit query_grid"):
            ops.log_spaced_coordinates((3, 3), (4, 3))

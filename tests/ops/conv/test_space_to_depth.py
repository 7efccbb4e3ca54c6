"""Space to depth, its inverse, and the convolution that takes the place of a stride."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class BlockSuite(OpSuite):
    __test__ = False

    def make_args(self, rng, case):
        return {"x": rng.normal(size=case.shape)}


class SpaceToDepthTest(BlockSuite):
    op = ops.space_to_depth
    reference = reference.space_to_depth
    cases = (
        OpCase(shape=(2, 4, 6, 3), full=True),
        OpCase(shape=(3, 6, 2), options={"block_size": 3, "block_order": "rows"}),
        OpCase(shape=(1, 2, 2, 4, 1), options={"block_order": "rows"}),
    )
    errors = (
        ({"block_size": 3}, ValueError, r"x has shape \(2, 4, 6, 3\); block_size=3 must divide"),
        ({"block_size": 0}, ValueError, "block_size=0"),
        ({"block_order": "diagonal"}, ValueError, "block_order='diagonal' is not one of"),
        ({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),
    )


class DepthToSpaceTest(BlockSuite):
    op = ops.depth_to_space
    reference = reference.depth_to_space
    cases = (
        OpCase(shape=(2, 3, 1, 8), full=True),
        OpCase(shape=(1, 2, 9), options={"block_size": 3, "block_order": "rows"}),
        OpCase(shape=(1, 2, 2, 4, 4), options={"block_order": "rows"}),
    )
    errors = (
        ({"block_size": 3}, ValueError, "block_size=3 squared must divide its channels"),
        ({"block_order": "diagonal"}, ValueError, "block_order='diagonal' is not one of"),
    )


class SpdConvTest(BlockSuite):
    op = ops.spd_conv
    reference = reference.spd_conv
    cases = (
        OpCase(shape=(2, 4, 6, 3), kernel=(3, 2, 12, 2), full=True),
        OpCase(
            shape=(3, 6, 2),
            kernel=(1, 2, 18, 3),
            options={"block_size": 3, "block_order": "rows", "padding": "VALID"},
        ),
    )
    errors = (
        ({"kernel": jnp.ones((3, 3, 3, 2))}, ValueError, "kernel has shape"),
        ({"block_size": 4}, ValueError, "block_size=4 must divide"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        return {**super().make_args(rng, case), "kernel": rng.normal(size=case.kernel)}


@pytest.mark.parametrize("block_order", ["columns", "rows"])
def test_nothing_is_lost(block_order):
    x = jnp.arange(2 * 6 * 12 * 5).reshape(2, 6, 12, 5).astype(jnp.float32)
    for size in (1, 2, 3, 6):
        y = ops.space_to_depth(x, size, block_order=block_order)
        chex.assert_trees_all_equal(ops.depth_to_space(y, size, block_order=block_order), x)


def test_rows_are_the_order_of_patches():
    x = jnp.arange(96.0).reshape(4, 8, 3)
    chex.assert_trees_all_equal(ops.space_to_depth(x, block_order="rows"), ops.patchify(x, 2))


@pytest.mark.parametrize("size", [3, 5])
def test_a_strided_convolution_is_one_over_blocks(size):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = rng.normal(size=(8, 6, 3)), rng.normal(size=(size, size, 3, 4))
        reach = size // 2
        # Tap i reads row 2 u + i - reach, which is row r of the block u + m.
        before = -((0 - reach) // 2)
        taps = before + 1 + (size - 1 - reach) // 2
        blocks = np.zeros((taps, taps, 2, 2, 3, 4))
        for i in range(size):
            for j in range(size):
                (m, r), (n, s) = divmod(i - reach, 2), divmod(j - reach, 2)
                blocks[m + before, n + before, s, r] = kernel[i, j]
        pads = (before, taps - 1 - before)
        actual = ops.spd_conv(
            jnp.asarray(x), jnp.asarray(blocks.reshape(taps, taps, 12, 4)), padding=(pads, pads)
        )
        expected = ops.conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=2, padding=reach)
        chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)

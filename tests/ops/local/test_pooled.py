"""Attention over pooled keys, the additive mixer, and large-kernel convolution as attention."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class PoolTokensTest(OpSuite):
    op = ops.pool_tokens
    reference = reference.pool_tokens
    cases = (
        OpCase(length=7, batch=(2,), options={"window": 3, "remainder": "keep"}, full=True),
        OpCase(length=7, options={"window": 3}),
        OpCase(length=2, options={"window": 5}),
    )
    errors = (
        ({"window": 0}, ValueError, "window=0"),
        ({"remainder": "wrap"}, ValueError, "remainder='wrap' is not one of 'drop', 'keep'"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=(*case.batch, case.length, 3))}


class SpatialReductionTest(OpSuite):
    op = ops.spatial_reduction_attention
    reference = reference.spatial_reduction_attention
    cases = (
        OpCase(batch=(2,), grid=(3, 5), options={"ratio": 2, "scale": 0.7}, full=True),
        OpCase(batch=(1, 2), grid=(4, 2), options={"ratio": (2, 1), "normalizer": "sigmoid"}),
        OpCase(grid=(5, 3), options={"size": (2, 4)}),
    )
    errors = (
        ({"size": 2}, ValueError, "ratio=2 and size=2: expected one of them"),
        ({"ratio": 0}, ValueError, "ratio=0: expected a positive integer"),
        ({"value": lambda x: x[:, 1:]}, ValueError, r"value has shape \(2, 2, 5, 1, 3\); expected"),
        ({"key": lambda x: x[0, 0]}, ValueError, "key has shape .* at least 4 axes"),
    )

    def make_args(self, rng, case):
        return {
            "query": rng.normal(size=(*case.batch, 4, 2, 5)),
            "key": rng.normal(size=(*case.batch, *case.grid, 1, 5)),
            "value": rng.normal(size=(*case.batch, *case.grid, 1, 3)),
        }


class SpatialReductionMatrixTest(SpatialReductionTest):
    op = ops.spatial_reduction_attention_matrix
    reference = reference.spatial_reduction_attention_matrix
    errors = ()
    cases = SpatialReductionTest.cases[::2]

    def make_args(self, rng, case):
        return {k: v for k, v in super().make_args(rng, case).items() if k != "value"}

    def test_the_matrix_is_what_attention_applies(self):
        rng = np.random.default_rng(0)
        arrays = SpatialReductionTest.make_args(self, rng, self.cases[0])
        query, key, value = (jnp.asarray(x) for x in arrays.values())
        matrix = ops.spatial_reduction_attention_matrix(query, key, ratio=2)
        pixels = jnp.repeat(value.reshape(2, 15, 1, 3), 2, -2)
        compare.assert_relative(
            jnp.einsum("bhts,bshv->bthv", matrix, pixels),
            ops.spatial_reduction_attention(query, key, value, ratio=2),
            1e-12,
        )
        compare.assert_relative(matrix.sum(-1), jnp.ones((2, 2, 4)), 1e-12)


class ConvAdditiveTest(OpSuite):
    op = ops.conv_additive_attention
    reference = reference.conv_additive_attention
    cases = (
        OpCase(batch=(2,), gates=True, full=True),
        OpCase(batch=(), gates=False),
    )
    errors = (
        ({"bias": lambda x: x[1:]}, ValueError, r"bias has shape \(2,\); expected \[C\]"),
        ({"key": lambda x: x[:, 1:]}, ValueError, r"key has shape \(2, 2, 4, 3\)"),
        ({"key_spatial": lambda x: x[..., 0]}, ValueError, r"key_spatial has shape \(2, 3, 4\)"),
        ({"query_channel": lambda x: x[1:]}, ValueError, r"query_channel has shape \(1, 3\)"),
    )

    def make_args(self, rng, case):
        maps = ("query", "key", "value")
        args = {name: rng.normal(size=(*case.batch, 3, 4, 3)) for name in maps}
        args["kernel"] = rng.normal(size=(3, 3, 1, 3))
        if case.gates:
            args["bias"] = rng.normal(size=3)
            for name in ("query", "key"):
                args[f"{name}_spatial"] = rng.normal(size=(*case.batch, 3, 4, 1))
                args[f"{name}_channel"] = rng.normal(size=(*case.batch, 3))
        return args


class LkcaTest(OpSuite):
    op = ops.lkca
    reference = reference.lkca
    forms = ("conv", "parallel")
    cases = (
        OpCase(batch=(2,), grid=(3, 2), kernel=(3, 5, 2), full=True),
        OpCase(batch=(), grid=(3, 4), kernel=(5, 7), forms=("conv", "parallel")),
        # wider than the map: every pixel reads every other, and the kernel's border none
        OpCase(batch=(1, 2), grid=(1, 3), kernel=(7, 11, 2, 3)),
    )
    errors = (
        ({"kernel": lambda x: x[1:]}, ValueError, r"kernel has shape \(2, 5, 2\).* odd"),
        ({"kernel": lambda x: x[..., 1:]}, ValueError, r"\(H, V\) = \(2, 3\)"),
        ({"form": "chunked"}, ValueError, "form='chunked' is not one of None, 'parallel', 'conv'"),
    )

    def make_args(self, rng, case):
        return {
            "value": rng.normal(size=(*case.batch, *case.grid, 2, 3)),
            "kernel": rng.normal(size=case.kernel),
        }


class LkcaMatrixTest(OpSuite):
    op = ops.lkca_matrix
    reference = reference.lkca_matrix
    cases = (
        OpCase(kernel=(3, 5, 2), options={"grid": (3, 2)}, full=True),
        OpCase(kernel=(7, 3, 2, 2), options={"grid": (2, 3)}),
    )

    def make_args(self, rng, case):
        return {"kernel": rng.normal(size=case.kernel)}


def test_the_lkca_matrix_is_block_toeplitz():
    with jax.enable_x64(True):
        kernel = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)))
        matrix = ops.lkca_matrix(kernel, (3, 4))[0].reshape(3, 4, 3, 4)
    chex.assert_trees_all_equal(matrix[:-1, :, :-1], matrix[1:, :, 1:])
    chex.assert_trees_all_equal(matrix[:, :-1, :, :-1], matrix[:, 1:, :, 1:])

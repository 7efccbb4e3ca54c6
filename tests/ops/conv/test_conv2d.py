"""Convolutions against their sums: every lowering, stride, padding, dilation and group."""

from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tolerances
from absl.testing import parameterized

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


def case(window, inputs, features, size=(7, 6), batch=(2,), channels=6, full=False, **options):
    return OpCase(
        kernel=(*window, inputs, features),
        size=size,
        batch=batch,
        channels=channels,
        full=full,
        options=options,
    )


class ConvSuite(OpSuite):
    __test__ = False

    def make_args(self, rng, case):
        x = rng.normal(size=(*case.batch, *case.size, case.channels))
        return {"x": x, "kernel": rng.normal(size=case.kernel)}


class Conv2dTest(ConvSuite):
    op = ops.conv2d
    reference = reference.conv2d
    cases = (
        # XLA's convolution.
        case((3, 2), 6, 4, full=True),
        case((3, 3), 6, 4, batch=(), padding=((0, 2), 1), dilation=(1, 2)),
        case((7, 7), 6, 4, stride=4, padding=3, size=(13, 9)),
        # Patches and points: products.
        case((3, 2), 6, 4, stride=(3, 2), padding="VALID", full=True),
        case((4, 4), 6, 4, stride=4, batch=(1, 2)),
        case((1, 1), 6, 4, padding=1),
        case((1, 1), 6, 4, stride=2),
        # Small strided kernels: gathered taps.
        case((3, 3), 6, 4, stride=2, padding=1),
        case((2, 2), 6, 4, stride=2, dilation=2),
        # Groups: a product per tap.
        case((3, 3), 2, 9, groups=3, stride=2, full=True),
        case((3, 2), 3, 2, groups=2, dilation=(2, 1), padding="VALID"),
        # Depthwise.
        case((3, 3), 1, 6, groups=6),
        case((3, 3), 1, 12, groups=6),
    )
    errors = (
        ({"kernel": jnp.ones((3, 3, 5, 4))}, ValueError, r"kernel has shape \(3, 3, 5, 4\)"),
        ({"kernel": jnp.ones((3, 3, 6))}, ValueError, r"kernel has shape \(3, 3, 6\)"),
        ({"groups": 4}, ValueError, "groups=4"),
        ({"x": lambda x: x[0, 0]}, ValueError, "x has shape"),
        ({"stride": 0}, ValueError, "stride=0"),
        ({"dilation": (1, 2, 3)}, ValueError, r"dilation=\(1, 2, 3\)"),
        ({"padding": "FULL"}, ValueError, "padding='FULL'"),
        ({"padding": -1}, ValueError, "padding=-1"),
        ({"kernel": jnp.ones((9, 3, 6, 4)), "padding": "VALID"}, ValueError, "reaches over"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
        ({"implementation": "cuda"}, ValueError, "implementation='cuda'"),
    )

    def test_other_backends_use_xlas_convolution_but_for_patches_of_images(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            expected = self.expected(arrays, options)
            for backend in ("gpu", "tpu"):
                with mock.patch.object(jax, "default_backend", return_value=backend):
                    actual = self.op.__wrapped__(**arrays, **options)
                compare.assert_relative(actual, expected, tolerances.FORWARD_F64)


class DepthwiseConv2dTest(ConvSuite):
    op = ops.depthwise_conv2d
    reference = reference.depthwise_conv2d
    cases = (
        case((3, 3), 1, 5, channels=5, full=True),
        case(
            (3, 2), 1, 3, channels=3, full=True, stride=(2, 3), dilation=(2, 1), padding=((3, 0), 1)
        ),
        case((7, 7), 1, 2, channels=2, batch=()),
        case((1, 1), 1, 2, channels=2, batch=(1, 2), stride=2),
        case((3, 3), 1, 2, channels=2, padding="VALID", size=(9, 3)),
        # More taps than are unrolled: a loop over kernel rows.
        case((15, 9), 1, 2, channels=2, size=(5, 6), dilation=(2, 1), stride=2),
    )
    errors = (
        ({"kernel": jnp.ones((3, 3, 5, 1))}, ValueError, r"expected \[ky, kx, 1, C\]"),
        ({"padding": "VALID", "dilation": 4}, ValueError, "reaches over"),
        ({"implementation": "pallas"}, NotImplementedError, "available: 'xla'"),
    )

    def test_other_backends_use_xlas_convolution(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            with mock.patch.object(jax, "default_backend", return_value="gpu"):
                actual = self.op.__wrapped__(**arrays, **options)
            compare.assert_relative(actual, self.expected(arrays, options), tolerances.FORWARD_F64)

    @parameterized.parameters(
        ((1, 40, 3), 1, 1),
        ((1, 16, 3), 1, 1),
        ((4, 8, 3), 2, 1),
        ((2, 16, 2), 1, 2),
        ((37, 2, 2), 1, 1),
        ((3, 21, 4), 3, 2),
    )
    def test_kernel_gradients_in_every_blocking(self, size, stride, dilation):
        rng = np.random.default_rng(0)
        batch, rows, columns = size
        options = {"stride": stride, "dilation": dilation}
        x, kernel = rng.normal(size=(batch, rows, columns, 2)), rng.normal(size=(3, 3, 1, 2))

        def gradient(function):
            y, pull_back = jax.vjp(lambda k: function(x, k, **options), jnp.asarray(kernel))
            return pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        compare.assert_relative(
            gradient(ops.depthwise_conv2d),
            gradient(reference.depthwise_conv2d),
            tolerances.VJP_F64,
        )

    def test_second_derivatives(self):
        rng = np.random.default_rng(0)
        x, kernel = (
            jnp.asarray(rng.normal(size=(2, 4, 3, 2))),
            jnp.asarray(rng.normal(size=(3, 3, 1, 2))),
        )

        def penalty(function):
            def loss(x, kernel):
                return jnp.sum(jnp.sin(function(x, kernel)))

            def norm(x, kernel):
                return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel))

            return jax.jit(jax.grad(norm, (0, 1)))(x, kernel)

        compare.assert_relative(
            penalty(ops.depthwise_conv2d), penalty(reference.depthwise_conv2d), tolerances.VJP_F64
        )


class PatchifyTest(OpSuite):
    op = ops.patchify
    reference = reference.patchify
    cases = (
        OpCase(shape=(2, 6, 4, 3), options={"patch_size": (3, 2)}, full=True),
        OpCase(shape=(4, 4, 1), options={"patch_size": 4}),
        OpCase(shape=(1, 2, 2, 2, 3), options={"patch_size": 1}),
    )
    errors = (
        ({"patch_size": 4}, ValueError, "patch_size=4 must divide"),
        ({"patch_size": 0}, ValueError, "patch_size=0"),
    )

    def make_args(self, rng, case):
        return {"x": rng.normal(size=case.shape)}

    def test_a_product_is_the_convolution_of_that_stride(self):
        rng = np.random.default_rng(0)
        x, kernel = (
            jnp.asarray(rng.normal(size=(6, 4, 3))),
            jnp.asarray(rng.normal(size=(3, 2, 3, 5))),
        )
        product = ops.patchify(x, (3, 2)) @ kernel.reshape(-1, 5)
        expected = reference.conv2d(x, kernel, stride=(3, 2), padding="VALID")
        compare.assert_relative(product, expected, tolerances.FORWARD_F64)
        chex.assert_shape(product, (2, 2, 5))


def test_half_precision_sums_are_carried_in_float32():
    """121 equal products: a bfloat16 accumulator would stop growing long before."""
    y = ops.depthwise_conv2d(
        jnp.full((1, 11, 11, 1), 1.0, jnp.bfloat16),
        jnp.full((11, 11, 1, 1), 1.0, jnp.bfloat16),
        padding="VALID",
    )
    assert float(y[0, 0, 0, 0]) == 121.0

"""Layers of functions on edges, and that a convolution is the dense layer over its patches."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class KanLinearTest(OpSuite):
    op = ops.kan_linear
    reference = reference.kan_linear
    cases = (
        OpCase(batch=(2,), sizes=(2, 3, 2), options={"base": "gelu"}, full=True),
        OpCase(sizes=(3, 1, 2)),
        OpCase(batch=(1, 2), sizes=(1, 2, 1), options={"base": "identity"}),
        OpCase(batch=(2,), sizes=(2, 2, 1), with_base=False),
    )
    errors = (
        ({"basis": lambda b: b[..., :1, :]}, ValueError, r"basis has shape .* expected \[\*B, D"),
        ({"coefficients": lambda c: c[:1]}, ValueError, r"coefficients has shape .*\[2, 3, O\]"),
        ({"base_weight": lambda w: w[:1]}, ValueError, "base_weight has shape"),
        ({"base": "tanh"}, ValueError, "base='tanh' is not one of"),
    )

    def make_args(self, rng, case):
        channels, count, features = case.sizes
        weight = rng.normal(size=(channels, features))
        return {
            "x": rng.normal(size=(*case.batch, channels)),
            "basis": rng.normal(size=(*case.batch, channels, count)),
            "coefficients": rng.normal(size=(channels, count, features)),
            "base_weight": weight if getattr(case, "with_base", True) else None,
        }


class KanConv2dTest(OpSuite):
    op = ops.kan_conv2d
    reference = reference.kan_conv2d
    cases = (
        OpCase(batch=(2,), grid=(3, 4), sizes=(2, 2, 3), full=True),
        OpCase(
            grid=(5, 4),
            sizes=(4, 2, 2),
            options={"stride": 2, "padding": 1, "groups": 2, "base": "gelu"},
        ),
        OpCase(batch=(1, 1), grid=(4, 4), sizes=(1, 1, 1), with_base=False),
    )
    errors = (
        ({"basis": lambda b: b[..., :1, :]}, ValueError, "basis has shape"),
        ({"coefficients": lambda c: c[..., :1, :]}, ValueError, "coefficients has shape"),
        ({"base_kernel": lambda w: w[:1]}, ValueError, "base_kernel has shape"),
        ({"base": "tanh"}, ValueError, "base='tanh' is not one of"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        channels, count, features = case.sizes
        inputs = channels // case.options.get("groups", 1)
        kernel = rng.normal(size=(3, 3, inputs, features))
        return {
            "x": rng.normal(size=(*case.batch, *case.grid, channels)),
            "basis": rng.normal(size=(*case.batch, *case.grid, channels, count)),
            "coefficients": rng.normal(size=(3, 3, inputs, count, features)),
            "base_kernel": kernel if getattr(case, "with_base", True) else None,
        }


class _OtherAxes(OpSuite):
    errors = (
        ({"basis": lambda b: b[..., :1, :]}, ValueError, "basis has shape"),
        ({"coefficients": lambda c: c[..., :0, :]}, ValueError, "coefficients has shape"),
        ({"base_kernel": lambda w: w[:1]}, ValueError, "base_kernel has shape"),
        ({"stride": (1, 1)}, ValueError, "stride="),
        ({"padding": (1, 1, 1, 1)}, ValueError, "padding="),
    )

    def make_args(self, rng, case):
        channels, count, features = case.sizes
        taps, inputs = case.taps, channels // case.options.get("groups", 1)
        return {
            "x": rng.normal(size=(*case.batch, *case.grid, channels)),
            "basis": rng.normal(size=(*case.batch, *case.grid, channels, count)),
            "coefficients": rng.normal(size=(*taps, inputs, count, features)),
            "base_kernel": rng.normal(size=(*taps, inputs, features)),
        }


class KanConv1dTest(_OtherAxes):
    op = ops.kan_conv1d
    reference = reference.kan_conv1d
    cases = (
        OpCase(batch=(2,), grid=(5,), taps=(3,), sizes=(2, 2, 3), full=True),
        OpCase(
            grid=(7,),
            taps=(2,),
            sizes=(4, 2, 2),
            options={"stride": 2, "padding": ((2, 1),), "dilation": 2, "groups": 2},
        ),
    )


class KanConv3dTest(_OtherAxes):
    op = ops.kan_conv3d
    reference = reference.kan_conv3d
    cases = (
        OpCase(batch=(2,), grid=(2, 3, 2), taps=(3, 1, 2), sizes=(2, 1, 2), full=True),
        OpCase(
            grid=(5, 3, 4),
            taps=(2, 2, 1),
            sizes=(4, 2, 2),
            options={
                "stride": (2, 1, 2),
                "padding": (1, (0, 1), 0),
                "dilation": (2, 1, 1),
                "groups": 2,
            },
        ),
        OpCase(grid=(3, 2, 2), taps=(2, 1, 2), sizes=(1, 1, 1), options={"padding": "VALID"}),
    )


def test_a_convolution_is_the_dense_layer_over_its_patches():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 5, 2)), jnp.float32)
    coefficients = jnp.asarray(rng.normal(size=(2, 2, 2, 4, 3)), jnp.float32)
    base = jnp.asarray(rng.normal(size=(2, 2, 2, 3)), jnp.float32)
    y = ops.kan_conv2d(x, ops.polynomial_basis(x), coefficients, base, padding="VALID")
    parts = [x[i : i + 3, j : j + 4] for i in range(2) for j in range(2)]
    patches = jnp.concatenate(parts, -1)
    weights = coefficients.reshape(8, 4, 3), base.reshape(8, 3)
    expected = ops.kan_linear(patches, ops.polynomial_basis(patches), *weights)
    chex.assert_trees_all_close(y, expected, atol=1e-4)

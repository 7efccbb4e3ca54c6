"""CondConv: mixing kernels is mixing convolutions, at the cost of one."""

import functools

import jax
import jax.numpy as jnp

from scanmax import ops
from scanmax.models.analysis import multiply_adds_of
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class CondConv2dTest(OpSuite):
    op = ops.cond_conv2d
    reference = reference.cond_conv2d
    cases = (
        OpCase(batch=(2,), map=(4, 3, 3), kernel=(3, 3, 1, 3), full=True, options={"groups": 3}),
        OpCase(map=(3, 3, 2), kernel=(1, 1, 2, 3), options={"padding": "VALID"}),
        OpCase(
            batch=(1, 2),
            map=(5, 4, 4),
            kernel=(3, 2, 2, 4),
            options={"stride": 2, "padding": 1, "groups": 2},
            biased=True,
        ),
    )
    errors = (
        ({"weights": lambda w: w[:1]}, ValueError, r"weights has shape .*\[\*B, n\]"),
        ({"biases": jnp.ones((2, 4))}, ValueError, r"biases has shape .*\[n, O\]"),
        ({"kernels": lambda k: k[0]}, ValueError, "kernels has shape"),
        ({"groups": 1}, ValueError, "kernel has shape"),
        ({"implementation": "cudnn"}, NotImplementedError, "available: 'xla'"),
    )

    def make_args(self, rng, case):
        args = {
            "x": rng.normal(size=(*case.batch, *case.map)),
            "kernels": rng.normal(size=(2, *case.kernel)),
            "weights": rng.uniform(size=(*case.batch, 2)),
        }
        if hasattr(case, "biased"):
            args["biases"] = rng.normal(size=(2, case.kernel[-1]))
        return args


def test_mixing_costs_the_same_at_every_resolution():
    """The extra multiply-adds are those of mixing: kernels times numbers of weights."""
    kernels, examples = jax.ShapeDtypeStruct((4, 3, 3, 8, 16), jnp.float32), 3

    def extra(side):
        x = jax.ShapeDtypeStruct((examples, side, side, 8), jnp.float32)
        weights = jax.ShapeDtypeStruct((examples, 4), jnp.float32)
        plain = functools.partial(ops.conv2d, stride=2)
        mixed = functools.partial(ops.cond_conv2d, stride=2)
        kernel = jax.ShapeDtypeStruct(kernels.shape[1:], jnp.float32)
        counts = [
            multiply_adds_of(jax.make_jaxpr(function)(*arrays).jaxpr)
            for function, arrays in ((mixed, (x, kernels, weights)), (plain, (x, kernel)))
        ]
        return counts[0] - counts[1]

    assert extra(8) == extra(16) == examples * 4 * 3 * 3 * 8 * 16

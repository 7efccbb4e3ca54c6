"""Recursive gates: their equation, and that the order counts the pixels that are multiplied."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class RecursiveGateTest(OpSuite):
    op = ops.recursive_gate
    reference = reference.recursive_gate
    cases = (
        OpCase(batch=(2,), length=3, widths=(1, 2, 4), full=True, biased=True),
        OpCase(length=2, widths=(3,)),
        OpCase(batch=(1, 2), length=2, widths=(2, 3)),
    )
    errors = (
        ({"gates": lambda g: g[..., 1:]}, ValueError, r"gates has shape .*\[\*B, T, G\]"),
        ({"x": lambda x: x[..., :0]}, ValueError, "begins with the width 0"),
        ({"biases": [jnp.ones(2)]}, ValueError, r"biases has shapes \[\(2,\)\]"),
    )

    def make_args(self, rng, case):
        lead, widths = (*case.batch, case.length), case.widths
        args = {
            "x": rng.normal(size=(*lead, widths[0])),
            "gates": rng.normal(size=(*lead, sum(widths))),
            "kernels": [rng.normal(size=pair) for pair in itertools.pairwise(widths)],
        }
        if hasattr(case, "biased"):
            args["biases"] = [rng.normal(size=width) for width in widths[1:]]
        return args


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_order_is_the_degree_of_the_polynomial(order):
    rng = np.random.default_rng(0)
    widths = [2**k for k in range(order)]
    x, gates = rng.normal(size=(3, 1)), rng.normal(size=(3, sum(widths)))
    kernels = [rng.normal(size=pair) for pair in itertools.pairwise(widths)]
    x, gates, *kernels = (jnp.asarray(value, jnp.float32) for value in (x, gates, *kernels))
    once = ops.recursive_gate(x, gates, kernels)
    twice = ops.recursive_gate(2 * x, 2 * gates, kernels)
    chex.assert_trees_all_close(twice, 2 ** (order + 1) * once, rtol=1e-5)

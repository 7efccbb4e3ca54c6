"""The perceptron over tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class TokenMlpTest(OpSuite):
    op = ops.token_mlp
    reference = reference.token_mlp
    cases = (
        OpCase(batch=(2,), sizes=(3, 4, 2), gated=True, options={"activation": "silu"}, full=True),
        OpCase(batch=(1, 2), sizes=(5, 2, 5)),
        OpCase(sizes=(1, 3, 1), biased=False, options={"activation": "relu"}),
        OpCase(batch=(0,), sizes=(3, 2, None)),
        OpCase(batch=(2,), sizes=(4, 3, None)),
    )
    errors = (
        ({"kernel": lambda w: w[1:]}, ValueError, r"kernel has shape .*\[3, H\]"),
        ({"bias": lambda b: b[1:]}, ValueError, "bias has shape"),
        ({"out_kernel": lambda w: w[1:]}, ValueError, r"out_kernel has shape .*\[4, U\]"),
        ({"out_bias": lambda b: b[1:]}, ValueError, "out_bias has shape"),
        ({"gate_kernel": lambda w: w[1:]}, ValueError, "gate_kernel has shape"),
        ({"gate_kernel": None}, ValueError, "gate_bias: part of a gate"),
        ({"out_kernel": None}, ValueError, "out_bias, gate_kernel: parts of a second map"),
        ({"activation": "tanh"}, ValueError, "activation='tanh' is not one of"),
    )

    def make_args(self, rng, case):
        tokens, hidden, outputs = case.sizes
        args = {
            "x": rng.normal(size=(*case.batch, tokens, 3)),
            "kernel": rng.normal(size=(tokens, hidden)),
        }
        if getattr(case, "biased", True):
            args["bias"] = rng.normal(size=hidden)
        if outputs is not None:
            args["out_kernel"] = rng.normal(size=(hidden, outputs))
            args["out_bias"] = rng.normal(size=outputs)
        if getattr(case, "gated", False):
            args["gate_kernel"] = rng.normal(size=(tokens, hidden))
            args["gate_bias"] = rng.normal(size=hidden)
        return args


@pytest.mark.usefixtures("float64")
def test_permuted_patches_are_permuted_weights():
    rng = np.random.default_rng(0)
    x, kernel, bias, out_kernel, out_bias = (
        jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5, 3), (5, 4), (4,), (4, 5), (5,))
    )
    order = rng.permutation(5)
    y = ops.token_mlp(x, kernel, bias, out_kernel, out_bias)
    weights = (kernel[order], bias, out_kernel[:, order], out_bias[order])
    np.testing.assert_allclose(ops.token_mlp(x[:, order], *weights), y[:, order], rtol=1e-12)

"""Experts that drop nothing."""

import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class DroplessExpertsTest(OpSuite):
    op = ops.dropless_experts
    reference = reference.dropless_experts
    sequence = ()
    differentiable = ("x", "kernel", "out_kernel", "bias", "out_bias", "gate_kernel", "gate_bias")
    cases = (
        OpCase(
            length=5,
            batch=(2,),
            options={"top_k": 2, "activation": "silu"},
            gated=True,
            full=True,
        ),
        OpCase(length=1, options={"top_k": 3}),
        OpCase(length=3, batch=(1, 2), options={"top_k": 1, "activation": "gelu"}),
    )
    errors = (
        ({"gates": lambda g: g[:, 1:]}, ValueError, "gates has shape"),
        ({"kernel": lambda w: w[1:]}, ValueError, r"kernel has shape .*\[E, D, F\]"),
        ({"out_kernel": lambda w: w[1:]}, ValueError, "out_kernel has shape"),
        ({"bias": lambda b: b[1:]}, ValueError, "bias has shape"),
        ({"out_bias": lambda b: b[1:]}, ValueError, "out_bias has shape"),
        ({"gate_kernel": None}, ValueError, "gate_bias: part of a gate"),
        ({"gate_bias": lambda b: b[1:]}, ValueError, "gate_bias has shape"),
        ({"top_k": 4}, ValueError, "top_k=4 with gates of shape"),
        ({"activation": "tanh"}, ValueError, "activation='tanh' is not one of"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length, 3)
        order = rng.permuted(np.tile(np.arange(3), (*shape[:-1], 1)), axis=-1)
        gates = rng.uniform(0.5, 1, size=shape) * (order < case.options["top_k"])
        args = {
            "x": rng.normal(size=(*case.batch, case.length, 3)),
            "gates": gates,
            "kernel": rng.normal(size=(3, 3, 4)),
            "out_kernel": rng.normal(size=(3, 4, 2)),
        }
        if getattr(case, "gated", False):
            args |= {
                "bias": rng.normal(size=(3, 4)),
                "out_bias": rng.normal(size=(3, 2)),
                "gate_kernel": rng.normal(size=(3, 3, 4)),
                "gate_bias": rng.normal(size=(3, 4)),
            }
        return args

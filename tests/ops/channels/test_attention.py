"""Channel and spatial gates against their equations."""

import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class GateSuite(OpSuite):
    __test__ = False

    def maps(self, rng, case):
        return rng.normal(size=(*case.batch, 2, 3, 6))


class SqueezeExciteTest(GateSuite):
    op = ops.squeeze_excite
    reference = reference.squeeze_excite
    cases = (
        OpCase(batch=(2,), biases=True, full=True),
        OpCase(batch=(), biases=False, options={"gate": "hard_sigmoid"}),
    )
    errors = (
        ({"squeeze": lambda x: x[:4]}, ValueError, r"squeeze has shape \(4, 2\)"),
        ({"excite": lambda x: x[:1]}, ValueError, r"excite has shape \(1, 6\)"),
        ({"squeeze_bias": lambda x: x[:1]}, ValueError, r"squeeze_bias has shape \(1,\)"),
        ({"excite_bias": lambda x: x[:1]}, ValueError, r"excite_bias has shape \(1,\)"),
    )

    def make_args(self, rng, case):
        shapes = {"squeeze": (6, 2), "excite": (2, 6), "squeeze_bias": (2,), "excite_bias": (6,)}
        weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        if not case.biases:
            weights["squeeze_bias"] = weights["excite_bias"] = None
        return {"x": self.maps(rng, case), **weights}

    def test_unknown_gates_are_told(self):
        arrays, _ = self.inputs(self.full_cases[0])
        if "gate" in self.parameters:
            with self.assertRaisesRegex(ValueError, "gate='tanh' is not one of 'sigmoid'"):
                self.op(**arrays, gate="tanh")


class CbamChannelGateTest(SqueezeExciteTest):
    op = ops.cbam_channel_gate
    reference = reference.cbam_channel_gate
    cases = (OpCase(batch=(2,), biases=True, full=True), OpCase(batch=(), biases=False))


class EfficientChannelAttentionTest(GateSuite):
    op = ops.efficient_channel_attention
    reference = reference.efficient_channel_attention
    cases = (OpCase(batch=(2,), taps=3, full=True), OpCase(batch=(), taps=9))
    errors = (({"kernel": lambda x: x[:2]}, ValueError, r"kernel has shape \(2,\)"),)

    def make_args(self, rng, case):
        return {"x": self.maps(rng, case), "kernel": rng.normal(size=case.taps)}


class PkcamTest(GateSuite):
    op = ops.pkcam
    reference = reference.pkcam
    cases = (
        OpCase(batch=(2,), widths=(2, 6), full=True),
        OpCase(batch=(), widths=(3,)),
    )
    errors = (
        ({"previous": ()}, ValueError, "previous is empty"),
        ({"fusion": lambda x: x[:2]}, ValueError, r"fusion has shape \(2,\)"),
        ({"output_fusion": lambda x: x[:1]}, ValueError, r"output_fusion has shape \(1,\)"),
        ({"previous": lambda p: (p[0], p[1][:, :4])}, ValueError, r"previous\[1\] .* divide 6"),
        ({"local_kernel": lambda x: x[:2]}, ValueError, "local_kernel has shape"),
    )

    def make_args(self, rng, case):
        previous = tuple(rng.normal(size=(*case.batch, width)) for width in case.widths)
        return {
            "x": self.maps(rng, case),
            "previous": previous,
            "local_kernel": rng.normal(size=3),
            "global_kernel": rng.normal(size=3),
            "fusion": rng.normal(size=len(previous) + 1),
            "output_fusion": rng.normal(size=2),
        }


class ChannelSummaryTest(GateSuite):
    op = ops.channel_summary
    reference = reference.channel_summary
    cases = (OpCase(batch=(2,), full=True),)
    errors = (({"x": lambda x: x[0, 0]}, ValueError, r"x has shape \(3, 6\)"),)

    def make_args(self, rng, case):
        return {"x": self.maps(rng, case)}


class CbamSpatialGateTest(GateSuite):
    op = ops.cbam_spatial_gate
    reference = reference.cbam_spatial_gate
    cases = (OpCase(batch=(2,), affine=True, full=True), OpCase(batch=(), affine=False))
    errors = (
        ({"kernel": lambda x: x[:, :, :1]}, ValueError, r"kernel has shape \(3, 3, 1, 1\)"),
        ({"scale": lambda x: x[0]}, ValueError, r"scale has shape \(\)"),
        ({"bias": lambda x: np.ones(2)}, ValueError, r"bias has shape \(2,\)"),
    )

    def make_args(self, rng, case):
        affine = rng.normal(size=(2, 1))
        return {
            "x": self.maps(rng, case),
            "kernel": rng.normal(size=(3, 3, 2, 1)),
            "scale": affine[0] if case.affine else None,
            "bias": affine[1] if case.affine else None,
        }

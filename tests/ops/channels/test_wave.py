"""SpaRTAN's waves: equal to complex numbers, each pair turned and scaled."""

import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class WaveAggregationTest(OpSuite):
    op = ops.wave_aggregation
    reference = reference.wave_aggregation
    cases = (
        OpCase(batch=(2, 3), channels=3, width=6, full=True),
        OpCase(channels=4, width=4),
        OpCase(batch=(1,), channels=1, width=2),
    )
    errors = (
        ({"amplitude": lambda x: x[..., 1:]}, ValueError, "amplitude has shape"),
        ({"rotation": lambda x: x[1:]}, ValueError, r"\[R / 2, 2\]"),
        ({"x": lambda x: x[:1]}, ValueError, "an even number of at least 3 channels"),
    )

    def make_args(self, rng, case):
        wide = (*case.batch, case.width)
        return {
            "x": rng.normal(size=(*case.batch, case.channels)),
            "phase": rng.normal(size=wide),
            "amplitude": rng.normal(size=wide),
            "rotation": rng.normal(size=(case.width // 2, 2)),
        }


def test_a_pair_is_turned_and_scaled():
    rng = np.random.default_rng(0)
    x, phase, amplitude = rng.normal(size=(3, 4)).astype(np.float32)
    angle, scale = np.array([0.3, -1.1]), np.array([0.5, 2.0])
    rotation = scale[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    y = ops.wave_aggregation(x, phase, amplitude, rotation.astype(np.float32))
    waves = phase * amplitude
    waves = (waves + waves[np.argmax(x)]).reshape(2, 2)
    lengths = np.linalg.norm(y.reshape(2, 2), axis=-1)
    np.testing.assert_allclose(lengths, scale * np.linalg.norm(waves, axis=-1), rtol=1e-5)
    turned = np.arctan2(*y.reshape(2, 2).T[::-1]) - np.arctan2(*waves.T[::-1])
    np.testing.assert_allclose(np.exp(1j * turned), np.exp(1j * angle), rtol=1e-5)

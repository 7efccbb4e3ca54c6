"""Spectral pooling: a circular convolution, and the energies that it leaves."""

import chex
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SpectralPoolingTest(OpSuite):
    op = ops.spectral_pooling
    reference = reference.spectral_pooling
    cases = (
        OpCase(batch=(2,), map=(4, 3, 2), full=True),
        OpCase(map=(3, 4, 2), options={"radius": 1}),
    )
    errors = (
        ({"low_weight": jnp.ones(3)}, ValueError, r"low_weight has shape .*\[C\]"),
        ({"radius": -1}, ValueError, "radius=-1"),
    )

    def make_args(self, rng, case):
        return {
            "x": rng.normal(size=(*case.batch, *case.map)),
            "low_weight": rng.uniform(0.6, 0.9, size=case.map[-1]),
        }


def test_energy_beyond_the_radius_falls_by_the_square_of_what_is_left():
    x = np.random.default_rng(0).normal(size=(8, 8, 3))
    weights = np.array([0.7, 0.8, 0.9])
    y = ops.spectral_pooling(jnp.asarray(x, jnp.float32), jnp.asarray(weights, jnp.float32))
    frequencies = np.fft.fftfreq(8, 1 / 8)
    distance = np.hypot(frequencies[:, None], frequencies[None])
    before, after = (np.abs(np.fft.fft2(z, axes=(0, 1))) ** 2 for z in (x, np.asarray(y)))
    circles = {"in": distance < 2, "out": distance > 2, "on": distance == 2}
    shares = {"in": weights**2, "out": (1 - weights) ** 2, "on": np.full(3, 1 / 9)}
    for name, kept in circles.items():
        ratio = after[kept].sum(0) / before[kept].sum(0)
        chex.assert_trees_all_close(ratio, shares[name], rtol=1e-5)

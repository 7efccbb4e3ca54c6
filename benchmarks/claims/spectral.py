"""Mixing by frequency: time that grows as the tokens, where attention's grows as their square."""

import jax
import numpy as np

from benchmarks.claims.slopes import slope
from scanmax import ops

ROWS, WIDTH = 32, 16


def maps(T):
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, T // ROWS, WIDTH)).astype(np.float32)


@slope("adaptive_frequency_filter")
def _adaptive(T):
    rng = np.random.default_rng(1)
    shapes = ((2, 4, 4, 4), (2, 4, 4)) * 2
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return jax.jit(lambda *arrays: ops.adaptive_frequency_filter(*arrays)), [maps(T), *weights]


@slope("fourier_conv2d, 16 x 9 modes")
def _fourier(T):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(16, 9, WIDTH, WIDTH, 2)).astype(np.float32)
    return jax.jit(lambda *arrays: ops.fourier_conv2d(*arrays)), [maps(T), weight]

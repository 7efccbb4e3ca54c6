"""Maps of several scales as one row: convolutions of two sizes, and MLPs that convolve each."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.parts.levels import ReceptiveFields, with_tokens
from scanmax.testing import compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

SHAPES = ((4, 6), (2, 3))
ROWS = (slice(0, 24), slice(24, 30))


def drawn(module, x, grid):
    shapes = nn.unbox(jax.eval_shape(lambda key: module.init(key, x, grid), jax.random.key(0)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32), shapes)


def run(module, variables, x, grid):
    apply = jax.jit(lambda x: module.apply(variables, x, grid), compiler_options=COMPILER_OPTIONS)
    return np.asarray(apply(x))


def gelu(x):
    from math import erf

    return x * (0.5 + 0.5 * np.vectorize(erf)(x / np.sqrt(2)))


def filtered(x, kernel):
    """Depthwise, tap by tap; zeros lie beyond the map."""
    rows, columns = x.shape[1:3]
    half = kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])
    return sum(
        padded[:, i : i + rows, j : j + columns] * kernel[i, j, 0]
        for i, j in np.ndindex(kernel.shape[:2])
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)


def test_receptive_fields_are_their_equation(x):
    module = ReceptiveFields(6)
    variables = drawn(module, x, SHAPES)
    params, statistics = variables["params"], variables["batch_stats"]
    y = x.astype(np.float64) @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    levels = []
    for level, (rows, shape) in enumerate(zip(ROWS, SHAPES, strict=True)):
        maps = y[:, rows].reshape(2, *shape, 6)
        halves = []
        for size, own in ((3, slice(0, 3)), (5, slice(3, 6))):
            conv = params[f"level{level}_conv{size}"]
            halves.append(filtered(maps[..., own], conv["kernel"]) + conv["bias"])
        norm, averages = params[f"level{level}_norm"], statistics[f"level{level}_norm"]
        z = (np.concatenate(halves, -1) - averages["mean"]) / np.sqrt(averages["variance"] + 1e-5)
        levels.append(gelu(gelu(z * norm["scale"] + norm["bias"])).reshape(2, -1, 6))
    expected = np.concatenate(levels, 1) @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    compare.assert_relative(run(module, variables, x, SHAPES), expected, 1e-5)


def test_an_mlp_convolves_every_level_as_it_would_alone(x):
    module = ConvMlp(6)
    variables = drawn(module, x, SHAPES)
    together = run(module, variables, x, SHAPES)
    for rows, shape in zip(ROWS, SHAPES, strict=True):
        alone = run(module, variables, x[:, rows], shape)
        compare.assert_relative(together[:, rows], alone, 1e-6)


def test_tokens_are_added_to_the_second_level_alone(x):
    added = with_tokens(x, np.ones((2, 6, 4), np.float32), SHAPES) - x
    assert np.all(np.asarray(added[:, 24:]) > 0.99)
    assert not np.any(np.asarray(added[:, :24]))

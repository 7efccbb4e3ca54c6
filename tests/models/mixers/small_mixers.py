"""Mixers of CASES, small, with random parameters: what their tests start from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from mixer_cases import CASES

from scanmax.models.mixers import create_mixer
from scanmax.testing.model_suite import COMPILER_OPTIONS

GRID, PREFIX, DIM = (3, 4), 2, 8
TOKENS = PREFIX + GRID[0] * GRID[1]


def randomised(boxed, scale=0.3):
    """Random values for parameters, none zero or small as some start; statistics that are some."""
    rng = np.random.default_rng(0)

    def fill(collection, leaf):
        values = rng.normal(size=leaf.shape)
        if collection == "batch_stats":
            return jnp.asarray(np.abs(values) + 0.5, leaf.dtype)
        return jnp.asarray(scale * values + 0.1, leaf.dtype)

    return {
        collection: jax.tree.map(lambda leaf, name=collection: fill(name, leaf), tree)
        for collection, tree in nn.unbox(boxed).items()
        if collection in ("params", "batch_stats")
    }


def mixer_and_variables(name, options=None, grid=None, **fields):
    case = CASES[name]
    mixer = create_mixer(name, heads=2, options={**case.options, **(options or {})}, **fields)
    tokens = TOKENS if grid is None else fields.get("prefix_tokens", 0) + grid[0] * grid[1]
    x = jax.random.normal(jax.random.key(0), (2, tokens, DIM))
    boxed = jax.eval_shape(lambda key: mixer.init(key, x, grid=grid), jax.random.key(1))
    return mixer, randomised(boxed), x


def compiled(function, *args):
    """The function compiled without XLA's slow passes: compiling is what these tests cost."""
    return jax.jit(function).lower(*args).compile(compiler_options=COMPILER_OPTIONS)

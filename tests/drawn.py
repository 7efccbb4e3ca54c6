"""Weights drawn without running a model's initialisation, which would be compiled for it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def drawn_variables(model, inputs, seed=0, scale=1.0, dtype=jnp.float32):
    """Variables of a model on such inputs: normal numbers, from shapes alone."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), inputs))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(scale * rng.normal(size=leaf.shape), dtype), shapes)

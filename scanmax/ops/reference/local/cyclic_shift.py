"""Rolling groups of heads of a map in different directions, head by head."""

import jax.numpy as jnp
import numpy as np


def multi_directional_cyclic_shift(x, shift):
    """y[p, h] = x[p - shift d_g, h], d_g = right, left, down, up."""
    directions = ((0, 1), (0, -1), (1, 0), (-1, 0))
    groups = np.array_split(np.arange(x.shape[-2]), 4)
    rolled = [
        jnp.roll(x[..., h, :], (shift * down, shift * right), (-3, -2))
        for heads, (down, right) in zip(groups, directions)
        for h in heads
    ]
    return jnp.stack(rolled, -2)

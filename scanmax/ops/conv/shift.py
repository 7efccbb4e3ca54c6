"""Shifts of groups of channels in the eight directions: SCNet's convolution without weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, op, require

# Where each group of channels is read from, in rows and columns: the order of the released code.
EIGHT_DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@op("steps")
def shift_eight(x: Float[Array, "*B Y X C"], *, steps: int = 1) -> Float[Array, "*B Y X C"]:
    """Shifts the channels, an eighth of them in each of the eight directions.

        y_c(p) = x_c(p + s o_g),   g = floor(8 c / C),
        o = (-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (1, -1), (-1, 1), (-1, -1)

    in rows and columns; zeros come from beyond the edges. Between two products over channels it
    gives them the reach of a 3 by 3 convolution, without weights and multiply-adds.

    Args:
      x: the map; 8 divides C.
      steps: s, how far.

    Returns:
      [*B, Y, X, C].

    Raises:
      ValueError: when 8 does not divide the channels, or steps is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.shift_eight(jnp.array([[[1.0] * 8, [2.0] * 8]]))[0, :, 2:4]
      Array([[0., 2.],
             [1., 0.]], dtype=float32)

    Reference: scnet-shift-conv
    """
    check_rank(3, x=x)
    require(x.shape[-1] % 8 == 0, f"x has shape {x.shape}; 8 must divide its channels.")
    require(steps >= 1, f"steps={steps}; expected at least 1.")
    rows, columns = x.shape[-3:-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(steps, steps)] * 2 + [(0, 0)])
    parts = []
    for group, (down, right) in zip(jnp.split(padded, 8, -1), EIGHT_DIRECTIONS):
        top, left = steps * (1 + down), steps * (1 + right)
        parts.append(group[..., top : top + rows, left : left + columns, :])
    return jnp.concatenate(parts, -1)

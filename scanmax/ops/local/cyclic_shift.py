"""Rolling groups of heads of a map in different directions."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, op

# right, left, down, up
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


@op("shift")
def multi_directional_cyclic_shift(
    x: Float[Array, "*B Y X H K"], shift: int
) -> Float[Array, "*B Y X H K"]:
    """Rolls each of four groups of heads by `shift` pixels in a direction of its own.

        y[p, h] = x[p - shift d_g, h],   d = right, left, down, up for head h of group g

    Opposite edges of the map become neighbours. Heads are split in order into four groups as even
    as can be, earlier ones larger; `-shift` undoes it. TiC names the shift without code: that it is
    by heads, in four directions and undone afterwards is this project's reading.

    Args:
      x: [*B, Y, X, H, K].
      shift: pixels, may be negative.

    Returns:
      [*B, Y, X, H, K].

    Raises:
      ValueError: too few axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (1, 3, 2, 1))  # two heads
      >>> ops.multi_directional_cyclic_shift(x, 1)[0, :, :, 0].T
      Array([[2., 0., 1.],
             [1., 2., 0.]], dtype=float32)

    Reference: tic-msa-conv
    """
    check_rank(4, x=x)
    heads, groups, start = x.shape[-2], [], 0
    for g, (down, right) in enumerate(DIRECTIONS):
        stop = start + -(-(heads - start) // (len(DIRECTIONS) - g))
        if stop > start:
            group = x[..., start:stop, :]
            groups.append(jnp.roll(group, (shift * down, shift * right), (-4, -3)))
        start = stop
    return jnp.concatenate(groups, -2)

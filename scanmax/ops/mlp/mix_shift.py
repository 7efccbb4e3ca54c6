"""Groups of channels shifted along rows and along columns and convolved there: MS-MLP."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, op, require
from scanmax.ops.conv.conv2d import depthwise_conv2d


@op("distances", "precision")
def mix_shift(
    x: Float[Array, "*B Y X C"],
    row_kernels: Sequence[Float[Array, "_ _ 1 _"]],
    column_kernels: Sequence[Float[Array, "_ _ 1 _"]],
    *,
    distances: tuple[int, ...] = (-2, -1, 0, 1, 2),
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X C"]:
    """Shifts groups of channels along rows and along columns, convolves both and adds them.

        y_i = k_i * shift(x_i, d_i along X) + l_i * shift(x_i, d_i along Y),    i = 1 .. n

    x_i is as many channels, in their order, as k_i and l_i have. Shifts go around the edges; the
    depthwise convolutions read zeros from beyond them. The further a group is shifted, the larger
    its kernels are in the paper: a place reads more of what is further away.

    Args:
      x: the map.
      row_kernels: k_i, [size, size, 1, C_i], of what is shifted along rows.
      column_kernels: l_i, of what is shifted along columns, as wide as k_i.
      distances: d_i in pixels, to larger indices where positive.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: when there is not one kernel of each kind for each distance, or they have not as
        many channels as x.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> one = [jnp.ones((1, 1, 1, 1))]
      >>> ops.mix_shift(jnp.arange(4.0).reshape(2, 2, 1), one, one, distances=(1,))[..., 0]
      Array([[3., 3.],
             [3., 3.]], dtype=float32)

    Reference: ms-mlp
    """
    check_rank(3, x=x)
    groups = []
    for name, kernels in (("row_kernels", row_kernels), ("column_kernels", column_kernels)):
        shapes = [kernel.shape for kernel in kernels]
        require(
            len(kernels) == len(distances)
            and all(kernel.ndim == 4 and kernel.shape[2] == 1 for kernel in kernels),
            f"{name} has shapes {shapes}; expected [size, size, 1, C_i] for each of "
            f"{len(distances)} distances.",
        )
        groups.append([kernel.shape[3] for kernel in kernels])
        require(
            groups[0] == groups[-1] and sum(groups[-1]) == x.shape[-1],
            f"{name} has shapes {shapes}; expected channels {groups[0]} that make up those of x "
            f"of shape {x.shape}.",
        )
    mixed, first = [], 0
    for width, distance, row, column in zip(groups[0], distances, row_kernels, column_kernels):
        part = x[..., first : first + width]
        first += width
        mixed.append(
            depthwise_conv2d(jnp.roll(part, distance, -2), row, precision=precision)
            + depthwise_conv2d(jnp.roll(part, distance, -3), column, precision=precision)
        )
    return jnp.concatenate(mixed, -1)

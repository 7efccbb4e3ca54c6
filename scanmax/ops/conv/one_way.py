"""Convolutions factorised before training: chains of filters along one axis each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, op, require
from scanmax.ops.conv.conv2d import depthwise_conv2d


@op("precision")
def cp_conv2d(
    x: Float[Array, "*B Y X C"],
    channels: Float[Array, "C R"],
    rows: Float[Array, "ky R"],
    columns: Float[Array, "kx R"],
    outputs: Float[Array, "R O"],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X O"]:
    """A convolution whose kernel is a sum of R products of one-way filters, which is never formed.

        y_po = sum_r outputs_ro sum_ij rows_ir columns_jr sum_c channels_cr x_(p + (i, j))c

    It is the convolution with the kernel W_ijco = sum_r rows_ir columns_jr channels_cr outputs_ro,
    of C + ky + kx + O weights for each r, as a chain: a filter over channels, one down the rows,
    one along the columns, and one to the outputs. Zeros stand beyond the edges.

    Args:
      x: the map.
      channels: filters over the channels of x.
      rows: filters of ky taps along Y.
      columns: filters of kx taps along X.
      outputs: what each of the R makes of the output channels.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, Y, X, O] in the dtype of x.

    Raises:
      ValueError: factors that are no matrices of one R, or channels of another C than x.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(3.0).reshape(1, 3, 1)
      >>> one, sums = jnp.ones((1, 1)), jnp.ones((3, 1))
      >>> ops.cp_conv2d(x, one, one, sums, one).ravel()
      Array([1., 3., 3.], dtype=float32)

    Reference: a-priori-1way-conv
    """
    check_rank(3, x=x)
    for name, factor, axis in (
        ("channels", channels, 1),
        ("rows", rows, 1),
        ("columns", columns, 1),
        ("outputs", outputs, 0),
    ):
        require(
            factor.ndim == 2 and factor.shape[axis] == channels.shape[-1],
            f"{name} has shape {factor.shape}; expected a matrix with the R of channels, "
            f"of shape {channels.shape}.",
        )
    require(
        channels.shape[0] == x.shape[-1],
        f"channels has shape {channels.shape}; expected [C, R] with x of shape {x.shape}.",
    )
    z = jnp.matmul(x, channels.astype(x.dtype), precision=precision)
    z = depthwise_conv2d(z, rows[:, None, None].astype(x.dtype), precision=precision)
    z = depthwise_conv2d(z, columns[None, :, None].astype(x.dtype), precision=precision)
    return jnp.matmul(z, outputs.astype(x.dtype), precision=precision)

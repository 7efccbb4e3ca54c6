"""Selective kernels: branches of several kernel sizes, weighted by what all of them hold."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
    spread,
)

SELECTED_BY = ("channels", "rows")


@op("by", "precision")
def selective_kernel(
    branches: Float[Array, "*B n Y X C"],
    squeeze: Float[Array, "D R"],
    excite: Float[Array, "n R D"],
    squeeze_bias: Float[Array, "R"] | None = None,
    excite_bias: Float[Array, "n D"] | None = None,
    *,
    by: str = "channels",
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B Y X C"]:
    """Selective kernel attention: a softmax over branches, for every channel or for every row.

        y = sum_i a_i x_i,    a = softmax_i(relu(mean(sum_i x_i) W + b) V_i + c_i)

    The mean is over the map for the gates of channels, and over columns and channels for those of
    rows. On a spectrogram whose rows are frequencies and columns times, the latter are the
    frequency-wise gates of speaker networks, and both in turn their frequency-channel-wise ones.

    Args:
      branches: what convolutions of n kernel sizes make of one map.
      squeeze: W; D = C or, for gates of rows, D = Y.
      excite: V.
      squeeze_bias: b; None for none.
      excite_bias: c; None for none.
      by: "channels" or "rows".
      precision: of both products, as in jax.lax.

    Returns:
      [*B, Y, X, C] in the dtype of branches; gates are made in at least float32.

    Raises:
      ValueError: an unknown `by`, or an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> branches = jnp.array([2.0, 4.0]).reshape(2, 1, 1, 1)
      >>> ops.selective_kernel(branches, jnp.ones((1, 1)), jnp.zeros((2, 1, 1)))
      Array([[[3.]]], dtype=float32)

    Reference: ska-speaker
    """
    check_rank(4, branches=branches)
    check_choice("by", by, SELECTED_BY)
    count, rows, _, channels = branches.shape[-4:]
    width = channels if by == "channels" else rows
    require(
        squeeze.ndim == 2 and squeeze.shape[0] == width,
        f"squeeze has shape {squeeze.shape}; expected [D, R] with D = {width} {by}.",
    )
    reduced = squeeze.shape[1]
    check_shape("excite", excite, (count, reduced, width), "[n, R, D]")
    check_shape("squeeze_bias", squeeze_bias, (reduced,), "[R]")
    check_shape("excite_bias", excite_bias, (count, width), "[n, D]")
    dtype = accumulator_dtype(branches, squeeze, excite)
    # Branch by branch: sums over so short an axis are loops of single numbers on CPUs.
    maps = [branches[..., i, :, :, :].astype(dtype) for i in range(count)]
    pooled = sum(maps).mean((-3, -2) if by == "channels" else (-2, -1))  # [*B, D]
    hidden = jnp.matmul(pooled, squeeze.astype(dtype), precision=precision)
    if squeeze_bias is not None:
        hidden = hidden + spread(squeeze_bias.astype(dtype), hidden)
    excite = excite.astype(dtype)
    logits = jnp.einsum("...r,nrd->...nd", jax.nn.relu(hidden), excite, precision=precision)
    if excite_bias is not None:
        logits = logits + spread(excite_bias.astype(dtype), logits)
    gates = jax.nn.softmax(logits, -2)
    gates = gates[..., None, None, :] if by == "channels" else gates[..., None, None]
    chosen = (each * gates[..., i, :, :, :] for i, each in enumerate(maps))
    return sum(chosen).astype(branches.dtype)

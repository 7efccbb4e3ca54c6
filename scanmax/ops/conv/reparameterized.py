"""Depthwise kernels and their dilated branches as one large kernel: UniRepLKNet."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_shape, op, require


@op("epsilon")
def fold_batch_norm(
    kernel: Float[Array, "ky kx I O"],
    mean: Float[Array, "O"],
    variance: Float[Array, "O"],
    scale: Float[Array, "O"] | None = None,
    bias: Float[Array, "O"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "ky kx I O"], Float[Array, "O"]]:
    """The kernel and bias that do what a convolution and the batch norm behind it do.

        kernel' = kernel g,    bias' = bias - mean g,    g = scale / sqrt(variance + epsilon)

    so that conv(x, kernel') + bias' = batch_norm(conv(x, kernel)) with the statistics given.

    Args:
      kernel: of the convolution, which has no bias.
      mean: running mean of its outputs.
      variance: their running variance.
      scale: gain of the norm; None is one.
      bias: its offset; None is zero.
      epsilon: added to the variance.

    Returns:
      (kernel', bias') in the dtype of kernel, computed in at least float32.

    Raises:
      ValueError: when an array is not [O].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> one = jnp.ones(1)
      >>> kernel, bias = ops.fold_batch_norm(jnp.ones((1, 1, 1, 1)), 3 * one, 4 * one, epsilon=0.0)
      >>> kernel.ravel(), bias
      (Array([0.5], dtype=float32), Array([-1.5], dtype=float32))

    Reference: unireplknet
    """
    vectors = {"mean": mean, "variance": variance, "scale": scale, "bias": bias}
    for name, vector in vectors.items():
        check_shape(name, vector, kernel.shape[-1:], "[O]")
    dtype = accumulator_dtype(kernel, mean, variance)
    gain = jax.lax.rsqrt(variance.astype(dtype) + epsilon)
    if scale is not None:
        gain = gain * scale.astype(dtype)
    offset = -mean.astype(dtype) * gain
    if bias is not None:
        offset = offset + bias.astype(dtype)
    folded = kernel.astype(dtype) * jnp.broadcast_to(gain, kernel.shape)
    return folded.astype(kernel.dtype), offset.astype(kernel.dtype)


@op("dilations")
def merge_dilated_kernels(
    kernel: Float[Array, "K K I O"],
    branches: Sequence[Float[Array, "_ _ I O"]],
    *,
    dilations: tuple[int, ...],
) -> Float[Array, "K K I O"]:
    """The one kernel that does what a large one and smaller, dilated ones beside it do.

        merged = kernel + sum_b up_d(branch_b),    up_d(w)[c + d (i - k // 2)] = w[i],  c = K // 2

    with zeros between the taps of a branch of dilation d: the convolutions of one map with all of
    them, added up, are the convolution with the merged kernel. All sizes are odd.

    Args:
      kernel: the large one.
      branches: smaller kernels, of the same channels.
      dilations: of each branch.

    Returns:
      [K, K, I, O] in the dtype of kernel.

    Raises:
      ValueError: when a branch reaches further than the kernel, or is not of its channels, a size
        is even, or there are not as many dilations as branches.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> large, small = jnp.zeros((5, 5, 1, 1)), jnp.ones((3, 3, 1, 1))
      >>> ops.merge_dilated_kernels(large, [small], dilations=(2,))[0, :, 0, 0]
      Array([1., 0., 1., 0., 1.], dtype=float32)

    Reference: unireplknet
    """
    require(
        len(branches) == len(dilations),
        f"dilations={dilations} are of {len(dilations)} branches; branches has {len(branches)}.",
    )
    require(
        kernel.ndim == 4 and kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1,
        f"kernel has shape {kernel.shape}; expected [K, K, I, O] of odd K.",
    )
    dtype = accumulator_dtype(kernel, *branches)
    merged, size = kernel.astype(dtype), kernel.shape[0]
    for branch, dilation in zip(branches, dilations):
        taps = branch.shape[0] if branch.ndim == 4 else 0
        margin = size - (dilation * (taps - 1) + 1)
        require(
            branch.shape == (taps, taps, *kernel.shape[2:]) and taps % 2 == 1 and margin >= 0,
            f"branches has one of shape {branch.shape} and dilation {dilation}; expected "
            f"[k, k, I, O] of odd k that lies within {size} by {size} taps, of the channels "
            f"{kernel.shape[2:]}.",
        )
        edge = (margin // 2, margin // 2, dilation - 1)
        pads = (edge, edge, (0, 0, 0), (0, 0, 0))
        merged = merged + jax.lax.pad(branch.astype(dtype), jnp.zeros((), dtype), pads)
    return merged.astype(kernel.dtype)

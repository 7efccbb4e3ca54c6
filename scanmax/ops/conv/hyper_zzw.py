"""Maps that meet a generated kernel of their own size, and themselves."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, align, check_choice, check_rank, op, require

INTERACTIONS = ("matrix", "elementwise")


@op("interaction", "precision")
def hyper_zzw(
    z: Float[Array, "*B Y X C"],
    kernel: Float[Array, "Y X C"],
    fast: Float[Array, "*B Y X C"] | None = None,
    *,
    interaction: str = "matrix",
    precision=None,
) -> Float[Array, "*B Y X C"]:
    """HyperZZW: a map times a hyper-kernel of its size, then times a map again.

        matrix:       y_c = (z_c * w_c) f_c      a product of Y by X matrices, channel by channel
        elementwise:  y = (z * w) * f

    The kernel w comes from a network of coordinates and makes the first factor depend on the
    context. "matrix" is the released code's global operator, in which an output reads a row of one
    factor and a column of the other; the released maps are square, others act as if zeros made them
    so. "elementwise" is its second form, and what the name says. The local operator is a
    convolution with a kernel generated from another map, whose conditioning the public material
    does not settle; it is not built.

    Args:
      z: the map that makes the kernel depend on the context.
      kernel: w, one for the batch.
      fast: f; z itself where None.
      interaction: "matrix" or "elementwise".
      precision: of the matrix products.

    Returns:
      [*B, Y, X, C] in the dtype of z.

    Raises:
      ValueError: arrays of different maps, an unknown interaction.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import hyper_zzw
      >>> hyper_zzw(jnp.ones((2, 2, 1)), jnp.ones((2, 2, 1)))[..., 0]
      Array([[2., 2.],
             [2., 2.]], dtype=float32)

    Reference: hyperzzw-terminator
    """
    check_choice("interaction", interaction, INTERACTIONS)
    check_rank(3, z=z)
    require(
        kernel.shape == z.shape[-3:],
        f"kernel has shape {kernel.shape}; expected [Y, X, C] = {z.shape[-3:]}.",
    )
    if fast is None:
        fast = z
    require(fast.shape == z.shape, f"fast has shape {fast.shape}; expected that of z, {z.shape}.")
    dtype = accumulator_dtype(z, kernel, fast)
    context = z.astype(dtype) * align(kernel.astype(dtype), z)
    if interaction == "elementwise":
        return (context * fast.astype(dtype)).astype(z.dtype)
    inner = min(z.shape[-3:-1])
    context, fast = context[..., :inner, :], fast.astype(dtype)[..., :inner, :, :]
    y = jnp.einsum("...yic,...ixc->...yxc", context, fast, precision=precision)
    return y.astype(z.dtype)

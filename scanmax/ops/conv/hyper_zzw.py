"""Maps that meet a generated kernel of their own size, and themselves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
    spread,
)

INTERACTIONS = ("matrix", "elementwise")
# Shorter vectors are divided by this, as torch's normalize does.
LEAST = 1e-12


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
    so. "elementwise" is its second form, and what the name says. The local operator is a depthwise
    convolution by a kernel that another map conditions, `hyper_kernel` with a context.

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


@op("renormalized", "detached", "precision")
def hyper_kernel(
    filters: Float[Array, "F Y X H"],
    weights: Float[Array, "L H H"],
    bias: Float[Array, "L H"],
    offset: Float[Array, "Y X"] | None = None,
    context: Float[Array, "L Y X H"] | None = None,
    *,
    renormalized: float = 0.1,
    detached: bool = True,
    precision=None,
) -> Float[Array, "Y X H"]:
    """Hidden values of a hyper-kernel: waves of the place times linear maps, under a context.

        h_0 = g_0,  u_l = g_l (W_l h_(l-1) + b_l) + p
        h_l = u_l                                 without a context
        h_l = (u_l + r u_l / |u_l|) c_l           with one, |u_l| over the places of each unit

    The g are F = L + 1 filters of the coordinates, sines in the released network; a linear map of
    what is returned gives the kernel. With a context, which comes of an activation map pooled to
    the kernel's size, the kernel depends on what it meets: HyperZZW's local operator. One kernel
    serves the whole batch there, so that the context is a mean over it.

    Args:
      filters: g, at every place of the kernel; a line of X places has Y = 1.
      weights: W, inputs before outputs.
      bias: b.
      offset: p, a number a place, of all units and layers; None is 0.
      context: c, one a layer; None leaves it and the renormalisation out.
      renormalized: r.
      detached: the first of the two terms has no gradient, as released: layers before the last
        learn by the direction of u alone.
      precision: of the matrix products.

    Returns:
      [Y, X, H] in the dtype of filters.

    Raises:
      ValueError: arrays that do not fit each other.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import hyper_kernel
      >>> filters = jnp.full((2, 1, 2, 1), 2.0)
      >>> hyper_kernel(filters, jnp.ones((1, 1, 1)), jnp.ones((1, 1)), jnp.ones((1, 2))).ravel()
      Array([7., 7.], dtype=float32)

    Reference: hyperzzw-terminator
    """
    require(filters.ndim == 4, f"filters have shape {filters.shape}; expected [F, Y, X, H].")
    count, *grid, hidden = filters.shape
    layers = count - 1
    check_shape("weights", weights, (layers, hidden, hidden), "[F - 1, H, H]")
    check_shape("bias", bias, (layers, hidden), "[F - 1, H]")
    check_shape("offset", offset, grid, "[Y, X]")
    check_shape("context", context, (layers, *grid, hidden), "[F - 1, Y, X, H]")
    dtype = accumulator_dtype(filters, weights, bias, offset, context)
    h, *waves = jnp.unstack(filters.astype(dtype))
    for layer, wave in enumerate(waves):
        mixed = jnp.matmul(h, weights[layer].astype(dtype), precision=precision)
        h = wave * (mixed + spread(bias[layer].astype(dtype), mixed))
        if offset is not None:
            h = h + offset.astype(dtype)[..., None]
        if context is not None:
            squares = jnp.sum(jnp.square(h), (0, 1), keepdims=True)
            length = jnp.sqrt(jnp.maximum(squares, LEAST**2))
            kept = jax.lax.stop_gradient(h) if detached else h
            h = (kept + renormalized * h / length) * context[layer].astype(dtype)
    return h.astype(filters.dtype)

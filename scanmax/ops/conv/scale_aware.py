"""SMT's modulators: heads convolved by kernels of other sizes, and gathered channel by channel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, op, require
from scanmax.ops.conv.conv2d import conv2d, depthwise_conv2d


@op("precision", "implementation")
def mixed_head_conv2d(
    x: Float[Array, "*B Y X C"],
    kernels: Sequence[Float[Array, "_ _ 1 _"]],
    *,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B Y X C"]:
    """Depthwise convolutions of heads, each with kernels of its own size.

        y = [x_1 * k_1, ..., x_H * k_H],    x = [x_1, ..., x_H] by channels

    Zeros lie beyond the edges.

    Args:
      x: the map.
      kernels: of each head, 3, 5, 7 and 9 a side in the paper; G channels in the order of x.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: kernels that are not depthwise, or not of C channels together.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> kernels = [jnp.ones((size, size, 1, 1)) for size in (1, 3)]
      >>> ops.mixed_head_conv2d(jnp.ones((2, 2, 2)), kernels)[0]
      Array([[1., 4.],
             [1., 4.]], dtype=float32)

    Reference: smt
    """
    check_rank(3, x=x)
    shapes = [tuple(kernel.shape) for kernel in kernels]
    require(
        bool(shapes) and all(len(shape) == 4 and shape[2] == 1 for shape in shapes),
        f"kernels has shapes {shapes}; expected [k, k, 1, G] of each head.",
    )
    widths = [shape[3] for shape in shapes]
    require(
        sum(widths) == x.shape[-1],
        f"x has shape {x.shape}: kernels of {widths} channels need {sum(widths)} together.",
    )
    starts = [sum(widths[:head]) for head in range(1, len(widths))]
    heads = [
        depthwise_conv2d(part, kernel, precision=precision, implementation=implementation)
        for part, kernel in zip(jnp.split(x, starts, -1), kernels)
    ]
    return jnp.concatenate(heads, -1)


@op("precision", "implementation")
def scale_aware_aggregation(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "H G E"],
    *,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B Y X F"]:
    """Gathers the same channel of every head: SMT's shuffle and grouped linear map in one.

        y_(g E + e) = sum_h x_(h G + g) W_(h g e)

    Args:
      x: a map of H heads of G channels each.
      kernel: of each channel g a map from H heads to E outputs; H = 4 and E = 8 in the paper.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, Y, X, G E] in the dtype of x: the E outputs of each channel lie side by side.

    Raises:
      ValueError: a kernel that is not [H, G, E], or does not hold the C channels of x.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> heads = jnp.array([[[1.0, 2.0, 30.0, 40.0]]])  # two heads of two channels
      >>> ops.scale_aware_aggregation(heads, jnp.ones((2, 2, 1)))
      Array([[[31., 42.]]], dtype=float32)

    Reference: smt
    """
    check_rank(3, x=x)
    require(
        kernel.ndim == 3 and kernel.shape[0] * kernel.shape[1] == x.shape[-1],
        f"kernel has shape {kernel.shape}; expected [H, G, E] with H G = {x.shape[-1]}.",
    )
    heads, width, outputs = kernel.shape
    shuffled = jnp.swapaxes(x.reshape(*x.shape[:-1], heads, width), -1, -2).reshape(x.shape)
    return conv2d(
        shuffled,
        kernel.reshape(1, 1, heads, width * outputs),
        groups=width,
        precision=precision,
        implementation=implementation,
    )

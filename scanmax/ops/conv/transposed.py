"""The transposed convolution: what raises the resolution of a map by a learned kernel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_implementation, check_rank, op, platform, require
from scanmax.ops.conv.conv2d import conv2d
from scanmax.ops.conv.space_to_depth import depth_to_space

# Taps a side, on CPU, up to which one product over them beats XLA's convolution: its gradient takes
# six times as long as torch's.
_GATHERED = 3


@op("stride", "padding", "precision", "implementation")
def conv_transpose2d(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "k k C O"],
    *,
    stride: int = 2,
    padding: int = 0,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B U V O"]:
    """Transposed convolution: every pixel writes its kernel into a map s times as large.

        y[u s + i - p, v s + j - p] += x[u, v] kernel[i, j]

    It is the gradient of a convolution of stride s with respect to its input. Computed as one
    convolution without a stride over x, whose outputs are the s by s pixels of a block, with no
    product by a zero where s divides k; on CPU a small one is one matrix product over its taps.

    Args:
      x: the map.
      kernel: [k, k, C, O].
      stride: s.
      padding: p, rows and columns that are cut off on every side, as in torch.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, (Y - 1) s + k - 2 p, (X - 1) s + k - 2 p, O] in the dtype of x.

    Raises:
      ValueError: when kernel is not [k, k, C, O], or stride and padding leave nothing.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 2.0]])[..., None]
      >>> ops.conv_transpose2d(x, jnp.ones((3, 3, 1, 1)), padding=1)[..., 0]
      Array([[1., 3., 2.]], dtype=float32)

    Reference: wavemix
    """
    check_rank(3, x=x)
    check_implementation("conv_transpose2d", implementation, ("xla",))
    size = kernel.shape[0] if kernel.ndim == 4 else 0
    require(
        kernel.ndim == 4 and kernel.shape[:3] == (size, size, x.shape[-1]),
        f"kernel has shape {kernel.shape}; expected [k, k, C, O] with C = {x.shape[-1]}.",
    )
    sides = [(n - 1) * stride + size - 2 * padding for n in x.shape[-3:-1]]
    require(
        stride >= 1 and padding >= 0 and min(sides) >= 1,
        f"stride={stride} and padding={padding} leave nothing of x of shape {x.shape} with a "
        f"kernel of {size} by {size}.",
    )
    # Output s q + r (before the cut) reads x[q - t] by tap r + s t, for t < taps.
    taps, features = -(-size // stride), kernel.shape[-1]
    kernel = jnp.pad(kernel, [(0, taps * stride - size)] * 2 + [(0, 0)] * 2)
    kernel = kernel.reshape(taps, stride, taps, stride, -1, features)[::-1, :, ::-1]
    kernel = jnp.transpose(kernel, (0, 2, 4, 1, 3, 5)).reshape(taps, taps, x.shape[-1], -1)
    if platform() == "cpu" and taps <= _GATHERED:
        pads = [(0, 0)] * (x.ndim - 3) + [(taps - 1, taps - 1)] * 2 + [(0, 0)]
        rows, columns = (n + taps - 1 for n in x.shape[-3:-1])
        padded = jnp.pad(x, pads)
        near = [
            padded[..., i : i + rows, j : j + columns, :] for i in range(taps) for j in range(taps)
        ]
        kernel = jax.lax.collapse(kernel.astype(x.dtype), 0, 3)
        y = jnp.matmul(jnp.concatenate(near, -1), kernel, precision=precision)
    else:
        y = conv2d(x, kernel, padding=taps - 1, precision=precision)
    y = depth_to_space(y, stride, block_order="rows")
    rows, columns = (slice(padding, padding + side) for side in sides)
    return y[..., rows, columns, :]

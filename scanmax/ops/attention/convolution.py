"""The weights with which one attention layer over patches performs a convolution."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, op, require


@op("patch_size", "grid", "sharpness")
def convolution_attention_weights(
    kernel: Float[Array, "ky kx I O"],
    *,
    patch_size: int,
    grid: tuple[int, int],
    sharpness: float = math.inf,
) -> tuple[Float[Array, "H T S"], Float[Array, "H D E"]]:
    """Weights of a multi-head attention layer over patches that convolves its image.

        y_t = sum_h softmax(bias_ht) [x; 0] out_h = the patches of conv2d(image, kernel)

    Each head looks at one neighbour of its patch, whatever the content: `bias` is 0 there and
    -sharpness elsewhere. `out`_h is the block of the convolution's Toeplitz matrix from that
    neighbour to the patch, the head's W_V W_O. A kernel that reaches r pixels beyond a patch of
    side P takes (2 ceil(r / P) + 1)^2 heads, 9 while r <= P. Neighbours beyond the border are the
    last key, a token of zeros, which makes the border's padding. With sharpness inf the layer is
    the convolution exactly; a finite one starts a layer that can be trained on.

    Shown here: any kernel, with heads as wide as a patch. The paper's condition on narrower heads
    is not built; its lower bound on their number, which is the rank of these blocks, is checked by
    `python -m benchmarks claims`.

    Args:
      kernel: [ky, kx, C, O], as in `conv2d` with padding "SAME".
      patch_size: side P of the patches.
      grid: (Y, X), patches of the image; T = Y * X.
      sharpness: how far the other keys' logits lie below.

    Returns:
      (bias [H, T, T + 1], out [H, P * P * C, P * P * O]); patches are flattened as by `patchify`.

    Raises:
      ValueError: kernel has not four axes, or patch_size or grid is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> kernel = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)  # left, own, right
      >>> bias, out = ops.convolution_attention_weights(kernel, patch_size=1, grid=(1, 2))
      >>> bias[0]  # the left neighbour: nothing, then the first pixel
      Array([[-inf, -inf,   0.],
             [  0., -inf, -inf]], dtype=float32)
      >>> out[:, 0, 0]
      Array([1., 2., 4.], dtype=float32)

    Reference: vit-performs-convolution
    """
    require(kernel.ndim == 4, f"kernel has shape {kernel.shape}; expected [ky, kx, C, O].")
    require(
        patch_size >= 1 and min(grid) >= 1,
        f"patch_size={patch_size} and grid={tuple(grid)} must be positive.",
    )
    require(sharpness > 0, f"sharpness={sharpness} must be positive.")
    *window, inputs, outputs = kernel.shape
    P = patch_size
    # Padding "SAME" puts the odd zero after.
    reach = [((size - 1) // 2, size // 2) for size in window]
    steps = [np.arange(-(-before // P) * -1, -(-after // P) + 1) for before, after in reach]
    offsets = [axis.reshape(-1) for axis in np.meshgrid(*steps, indexing="ij")]  # [H] each

    rows, columns = grid
    y, x = (axis.reshape(-1) for axis in np.indices(grid))
    target_y, target_x = (
        place[None] + offset[:, None] for place, offset in zip((y, x), offsets)
    )  # [H, T]
    inside = (target_y >= 0) & (target_y < rows) & (target_x >= 0) & (target_x < columns)
    target = np.where(inside, target_y * columns + target_x, rows * columns)
    looks = target[..., None] == np.arange(rows * columns + 1)
    bias = jnp.asarray(np.where(looks, 0.0, -sharpness), accumulator_dtype(kernel))

    # Tap of the kernel by which input pixel i of the neighbour reaches output pixel u: [H, P, P].
    pixels = np.arange(P)
    taps = [
        offset[:, None, None] * P + pixels[:, None] - pixels + before
        for offset, (before, _) in zip(offsets, reach)
    ]
    valid = [(tap >= 0) & (tap < size) for tap, size in zip(taps, window)]
    tap_y, tap_x = (np.where(v, tap, 0) for v, tap in zip(valid, taps))
    blocks = kernel[tap_y[:, :, None, :, None], tap_x[:, None, :, None, :]]  # [H, i, j, u, v, C, O]
    there = valid[0][:, :, None, :, None] & valid[1][:, None, :, None, :]
    blocks = jnp.where(there[..., None, None], blocks, jnp.zeros_like(blocks))
    blocks = jnp.moveaxis(blocks, -2, 3)  # [H, i, j, C, u, v, O]
    return bias, blocks.reshape(len(target), P * P * inputs, P * P * outputs)

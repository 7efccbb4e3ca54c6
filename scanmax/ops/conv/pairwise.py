"""Gates between neighbours in the place of pooling: genCNN."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, align, check_rank, check_shape, op, require


@op("precision")
def gated_pairwise_pool(
    x: Float[Array, "*B T D"],
    kernel: Float[Array, "_ G"],
    bias: Float[Array, " G"] | None = None,
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B U D"]:
    """Halves a sequence: of two neighbours a gate says how much of each goes on.

        y_t = g_t x_2t + (1 - g_t) x_(2t+1),   g_t = sigmoid([x_2t, x_(2t+1)] W + b)

    It takes the place of pooling between the convolutions of genCNN: what is passed is chosen by
    what both say, not by which is larger. Where T is odd the last token goes on as it is.

    Args:
      x: the tokens.
      kernel: W; G is 1, a gate for all channels, or D, one of each.
      bias: b; None for none.
      precision: of the product with W, as in jax.lax.

    Returns:
      [*B, U, D] in the dtype of x, U = ceil(T / 2).

    Raises:
      ValueError: a kernel that is not [2 D, 1] or [2 D, D], or a bias of another G.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.gated_pairwise_pool(jnp.array([[1.0], [3.0], [8.0]]), jnp.zeros((2, 1)))
      Array([[2.],
             [8.]], dtype=float32)

    Reference: gencnn
    """
    check_rank(2, x=x)
    D = x.shape[-1]
    require(
        kernel.ndim == 2 and kernel.shape[0] == 2 * D and kernel.shape[1] in (1, D),
        f"kernel has shape {kernel.shape}; expected [{2 * D}, 1] or [{2 * D}, {D}].",
    )
    check_shape("bias", bias, kernel.shape[1:], "[G]")
    dtype = accumulator_dtype(x, kernel, bias)
    whole = x.shape[-2] // 2 * 2
    first, second = x[..., 0:whole:2, :], x[..., 1:whole:2, :]
    both = jnp.concatenate([first, second], -1)
    gate = jnp.matmul(both, kernel.astype(x.dtype), precision=precision).astype(dtype)
    if bias is not None:
        gate = gate + align(bias.astype(dtype), gate)
    gate = jax.nn.sigmoid(gate)
    y = gate * first.astype(dtype) + (1 - gate) * second.astype(dtype)
    return jnp.concatenate([y.astype(x.dtype), x[..., whole:, :]], -2)

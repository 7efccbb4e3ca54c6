"""Token reorganisation: attentive tokens stay, the others become one."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


@op("keep_rate", "fuse", "normalize", "prefix_tokens")
def token_reorganize(
    x: Float[Array, "*B T D"],
    class_attention: Float[Array, "*B H T"],
    *,
    keep_rate: float,
    fuse: bool = True,
    normalize: bool = False,
    prefix_tokens: int = 1,
) -> Float[Array, "*B U D"]:
    """Keeps the tokens to which the class token attends most, and fuses the rest into one.

        y = [prefix, x_i of the k largest a_i, sum of a_i x_i over the rest],  a = mean_h A_h,class

    k = ceil(keep_rate N) of the N = T - prefix_tokens tokens behind the prefix, in falling order of
    their attention; where k = N the tokens stay as they are. A fused token takes part in later
    rounds as any other. The shape depends on keep_rate alone, so that each rate is compiled once.

    Args:
      x: [*B, T, D].
      class_attention: [*B, H, T], the class token's row of each head's attention matrix.
      keep_rate: in (0, 1].
      fuse: whether the rest is fused or dropped.
      normalize: divide the fused token by the sum of its weights; the paper does not.
      prefix_tokens: leading tokens (class, distillation) that always stay.

    Returns:
      [*B, prefix_tokens + k + fuse, D] in the dtype of x; x itself where k = N.

    Raises:
      ValueError: a rate outside (0, 1], or shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[9.0], [1.0], [2.0], [4.0]])
      >>> ops.token_reorganize(x, jnp.array([[0.0, 0.2, 0.6, 0.25]]), keep_rate=0.3)[:, 0]
      Array([9. , 2. , 1.2], dtype=float32)

    Reference: evit
    """
    check_rank(2, x=x, class_attention=class_attention)
    *batch, T, _ = x.shape
    heads = class_attention.shape[-2]
    check_shape("class_attention", class_attention, (*batch, heads, T), "[*B, H, T]")
    require(0 < keep_rate <= 1, f"keep_rate={keep_rate}; expected a rate in (0, 1].")
    require(0 <= prefix_tokens < T, f"prefix_tokens={prefix_tokens} leaves none of x, {x.shape}.")
    tokens = T - prefix_tokens
    keep = math.ceil(keep_rate * tokens)
    if keep == tokens:
        return x
    dtype = accumulator_dtype(x, class_attention)
    attention = jnp.mean(class_attention[..., prefix_tokens:].astype(dtype), axis=-2)
    prefix, patches = x[..., :prefix_tokens, :], x[..., prefix_tokens:, :]
    order = jnp.argsort(-jax.lax.stop_gradient(attention), axis=-1)
    parts = [prefix, jnp.take_along_axis(patches, order[..., :keep, None], axis=-2)]
    if fuse:
        rest = jnp.argsort(order, axis=-1) >= keep  # the rank of each token
        weights = jnp.where(rest, attention, jnp.zeros_like(attention))
        fused = jnp.sum(weights[..., None] * patches.astype(dtype), axis=-2, keepdims=True)
        if normalize:
            fused = fused / jnp.sum(weights, axis=-1)[..., None, None]
        parts.append(fused.astype(x.dtype))
    return jnp.concatenate(parts, axis=-2)

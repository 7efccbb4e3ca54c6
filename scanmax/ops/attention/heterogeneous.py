"""Heads of two kinds (MPCViT): ReLU-softmax attention and scaling attention, mixed head by head."""

from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.attention.normalizer import ReluSoftmax
from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require
from scanmax.ops.linear.scaling import scaling_attention, scaling_attention_matrix


def _share(query, key, alpha, dtype):
    """alpha as [T or 1, H or 1]."""
    check_rank(3, query=query, key=key)
    T, H = query.shape[-3:-1]
    check_shape("key", key, query.shape, "[*B, T, H, K]")
    shape = (1,) * (2 - alpha.ndim) + alpha.shape
    require(
        len(shape) == 2 and shape[0] in (1, T) and shape[1] in (1, H),
        f"alpha has shape {alpha.shape}; expected a scalar, [H], or [T, H] = ({T}, {H}).",
    )
    return alpha.astype(dtype).reshape(shape)


@op("epsilon", "form", "chunk_size", "precision", forward_mode="parallel")
def heterogeneous_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    alpha: Float[Array, ""] | Float[Array, "H"] | Float[Array, "_ _"],
    *,
    epsilon: float = 1e-5,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Each head between attention with a ReLU in place of exp, and attention with nothing at all.

        y = alpha (relu(l) / (sum relu(l) + eps)) v + (1 - alpha) (l / T) v,    l = scale q k^T

    The second kind is evaluated in linear order, q (k^T v) / T. Neither needs an exponential, which
    is what secure two-party computation pays for; a search learns alpha and then rounds it to 0
    or 1.

    Args:
      query: [*B, T, H, K].
      key: [*B, T, H, K].
      value: [*B, T, H, V].
      alpha: share of the first kind: a scalar, [H], or [T, H] with axes of 1 (a share per row).
      epsilon: added to the row sum of the first kind.
      scale: scalar factor of the logits; None is K ** -0.5.
      form: of the first kind, "parallel" or "chunked".
      chunk_size: the largest block of the chunked form.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, value = jnp.ones((2, 1, 1)), jnp.array([[[1.0]], [[3.0]]])
      >>> ops.heterogeneous_attention(x, -x, value, jnp.array([0.5]))[:, 0, 0]
      Array([-1., -1.], dtype=float32)

    Reference: mpcvit
    """
    dtype = accumulator_dtype(query, key, value, alpha)
    share = _share(query, key, alpha, dtype)[..., None]
    by_relu = dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        normalizer=ReluSoftmax(epsilon),
        form=form,
        chunk_size=chunk_size,
        precision=precision,
    ).astype(dtype)
    by_scale = scaling_attention(query, key, value, scale=scale, precision=precision).astype(dtype)
    share = share.reshape((1,) * (by_relu.ndim - 3) + share.shape)
    return (share * by_relu + (1 - share) * by_scale).astype(value.dtype)


@op("epsilon", "precision")
def heterogeneous_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    alpha: Float[Array, ""] | Float[Array, "H"] | Float[Array, "_ _"],
    *,
    epsilon: float = 1e-5,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The weights by which `heterogeneous_attention` mixes the values.

    P = alpha relu(l) / (sum relu(l) + eps) + (1 - alpha) l / T

    Args:
      query: [*B, T, H, K].
      key: [*B, T, H, K].
      alpha: share of the first kind: a scalar, [H], or [T, H] with axes of 1.
      epsilon: added to the row sum of the first kind.
      scale: scalar factor of the logits; None is K ** -0.5.
      precision: of the matrix products.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 1, 1))
      >>> ops.heterogeneous_attention_matrix(x, -x, jnp.array([0.5]))[0]
      Array([[-0.25, -0.25],
             [-0.25, -0.25]], dtype=float32)

    Reference: mpcvit
    """
    dtype = accumulator_dtype(query, key, alpha)
    share = _share(query, key, alpha, dtype).T[..., None]  # [H, T, 1]
    by_relu = attention_matrix(
        query, key, scale=scale, normalizer=ReluSoftmax(epsilon), precision=precision
    ).astype(dtype)
    by_scale = scaling_attention_matrix(query, key, scale=scale, precision=precision)
    share = share.reshape((1,) * (by_relu.ndim - 3) + share.shape)
    return (share * by_relu + (1 - share) * by_scale.astype(dtype)).astype(query.dtype)

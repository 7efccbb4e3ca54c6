"""Aggregated attention: the pixels around a query and pooled keys of the whole map, one softmax."""

import functools
import math

from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import scale_of
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.contract import check_shape, op, require
from scanmax.ops.local.blocks import (
    Offsets,
    Terms,
    as_maps,
    attend_offsets,
    check_maps,
    check_table,
    matrix_of,
)
from scanmax.ops.local.patterns import pair

Pair = int | tuple[int, int]


@op("kernel_size", "normalizer", "precision")
def aggregated_attention(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    pooled_key: Float[Array, "*B P G K"],
    pooled_value: Float[Array, "*B P G V"],
    local_bias: Float[Array, "H ky kx"] | None = None,
    pooled_bias: Float[Array, "H Y X P"] | None = None,
    local_weights: Float[Array, "*B Y X H O"] | None = None,
    *,
    kernel_size: Pair = 3,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B Y X H V"]:
    """Attention to the k x k pixels around each query and to pooled keys, normalized together.

        [a, b] = normalizer([scale q_p . k_(p + o) + local_bias[o], scale q_p . k'_s + pooled_bias])
        y_p = sum_o (a_o + local_weights[p, o]) v_(p + o) + sum_s b_s v'_s

    Offsets o that leave the map do not take part. The positional weights are added after the
    normalizer, so that their rows need not sum to one: in the released code they are
    unit(q) T + c with learnable tokens T. The keys are not unfolded: one offset is taken after
    another, for all pixels at once, and time and memory grow as pixels times (k^2 + P).

    Args:
      query: [*B, Y, X, H, K]; with `scaled_queries`, unit keys and scale=1 the logits are the
        length-scaled cosines of the released code.
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      pooled_key: [*B, P, G, K].
      pooled_value: [*B, P, G, V].
      local_bias: [H, k, k'], added to the logits of each offset.
      pooled_bias: [H, Y, X, P], added to the logits of the pooled keys.
      local_weights: [*B, Y, X, H, k k'], added to the normalized weights of the offsets, rows
        first.
      kernel_size: k, or (k, k'); odd.
      scale: scalar factor of the products, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, Y, X, H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)  # [Y, X, H, K]
      >>> pooled = jnp.full((1, 1, 1), 7.0)  # [P, H, K]
      >>> ops.aggregated_attention(0 * x, x, x, pooled, pooled, kernel_size=(1, 3))[0, :, 0, 0]
      Array([2.6666667, 2.5      , 3.25     , 4.       ], dtype=float32)

    Reference: transnext
    """
    check_maps(query, key, value, pooled_key, pooled_value)
    kernel = pair("kernel_size", kernel_size, 1)
    require(all(k % 2 for k in kernel), f"kernel_size={kernel_size}; expected odd numbers.")
    check_table(local_bias, query, kernel, "local_bias")
    *batch, Y, X, H, K = query.shape
    P, count = pooled_key.shape[-3], math.prod(kernel)
    check_shape("pooled_bias", pooled_bias, (H, Y, X, P), "[H, Y, X, P]")
    check_shape("local_weights", local_weights, (*batch, Y, X, H, count), "[*B, Y, X, H, k k']")
    normalizer, scale = get_normalizer(normalizer, K), scale_of(scale, query)
    terms = Terms(local_bias, None, None, pooled_key, pooled_value)
    query, key, value, terms, batch = as_maps(query, key, value, terms)
    if local_weights is not None:
        local_weights = lax.collapse(local_weights, 0, len(batch))
    y = attend_offsets(
        Offsets(kernel),
        normalizer,
        query,
        key,
        value,
        terms,
        scale,
        precision,
        pooled_bias,
        local_weights,
    )
    return y.reshape(*batch, *y.shape[1:])


@op("kernel_size", "normalizer", "precision")
def aggregated_attention_matrix(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    pooled_key: Float[Array, "*B P G K"],
    local_bias: Float[Array, "H ky kx"] | None = None,
    pooled_bias: Float[Array, "H Y X P"] | None = None,
    local_weights: Float[Array, "*B Y X H O"] | None = None,
    *,
    kernel_size: Pair = 3,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `aggregated_attention` mixes the pooled and the local values.

    P[p] = [b, a + local_weights[p]], the pooled keys first, then the pixels row by row; for small
    maps.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K].
      pooled_key: [*B, P, G, K].
      local_bias: [H, k, k'], as in `aggregated_attention`, like all that follow.
      pooled_bias: [H, Y, X, P].
      local_weights: [*B, Y, X, H, k k'].
      kernel_size: one integer or two, odd.
      scale: scalar factor of the products.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, T, P + T] in the dtype of query, T = Y X.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 3, 1, 1))
      >>> pooled = jnp.ones((1, 1, 1))
      >>> ops.aggregated_attention_matrix(x, x, pooled, kernel_size=(1, 3))[0, 1]
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Reference: transnext
    """
    attend = functools.partial(
        aggregated_attention,
        query,
        key,
        pooled_key=pooled_key,
        local_bias=local_bias,
        pooled_bias=pooled_bias,
        local_weights=local_weights,
        kernel_size=kernel_size,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return matrix_of(
        lambda value, global_value: attend(value=value, pooled_value=global_value),
        query,
        key,
        pooled_key,
    )

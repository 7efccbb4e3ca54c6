"""Gated positional self-attention: attention by content and by place, mixed by a gate per head.

The place logits are a quadratic of the offset between two pixels whose square term is the same in
both directions, so their softmax over the grid is the product of a softmax over rows and one over
columns. Applied one after the other these cost T (Y + X) products a channel and never make the T by
T matrix; the content part is `dot_product_attention`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_grid,
    check_rank,
    check_shape,
    op,
    require,
)


def _axis_weights(position_weight: Array, size: int, axis: int) -> Array:
    """[H, size, size]: the softmax along one axis of the grid; `axis` is its column of weights."""
    offset = np.arange(size)[None] - np.arange(size)[:, None]
    offset = jnp.asarray(offset[None], position_weight.dtype)
    linear, square = (position_weight[:, i].reshape(-1, 1, 1) for i in (axis, 2))
    return jax.nn.softmax(square * offset * offset + linear * offset, axis=-1)


def _checked(query, position_weight, gate, grid, prefix_tokens):
    """(weights of rows, weights of columns, gate of each token [T, H]) in accumulator precision."""
    check_grid("grid", grid)
    check_rank(3, query=query)
    T, H = query.shape[-3:-1]
    rows, columns = grid
    require(
        prefix_tokens >= 0 and prefix_tokens + rows * columns == T,
        f"query has shape {query.shape}; expected T = {prefix_tokens} + {rows} * {columns} tokens "
        f"for grid={tuple(grid)} and prefix_tokens={prefix_tokens}.",
    )
    check_shape("position_weight", position_weight, (H, 3), "[H, 3]")
    check_shape("gate", gate, (H,), "[H]")
    dtype = accumulator_dtype(query, position_weight, gate)
    position_weight = position_weight.astype(dtype)
    share = jax.nn.sigmoid(gate.astype(dtype))[None]
    share = jnp.broadcast_to(share, (rows * columns, H))
    share = jnp.concatenate([jnp.zeros((prefix_tokens, H), dtype), share], 0)
    across, down = (
        _axis_weights(position_weight, columns, 0),
        _axis_weights(position_weight, rows, 1),
    )
    return down, across, share


@op("grid", "prefix_tokens", "form", "precision", forward_mode="parallel")
def gpsa(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T G V"],
    position_weight: Float[Array, "H 3"],
    gate: Float[Array, "H"],
    *,
    grid: tuple[int, int],
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Gated positional self-attention of a grid of tokens.

        y = ((1 - s) softmax(scale q k^T) + s softmax(p)) v,   s = sigmoid(gate)
        p_ij = w_x dx + w_y dy + w_d (dx^2 + dy^2),   (dx, dy) from pixel i to pixel j

    The paper and its code then divide each row by its sum, which is one already. The softmax of p
    factors into rows and columns, so beyond the content part the op costs T (Y + X) a channel.
    Prefix tokens have no place: their own rows are content alone, and pixels read them by content.

    Args:
      query: [*B, T, H, K], T = prefix_tokens + Y * X, row by row.
      key: [*B, T, G, K], where G divides H.
      value: [*B, T, G, V].
      position_weight: [H, 3], (w_x, w_y, w_d) of each head in the order of the released code;
        `gpsa_position_weight` makes the convolutional start. A bias of p, which the released
        layer has too, cancels in the softmax.
      gate: [H] before the sigmoid; the released code starts at 1.
      grid: (Y, X).
      prefix_tokens: leading tokens outside the grid.
      scale: of the content logits, may be traced; None is K ** -0.5.
      form: of the content part, as in `dot_product_attention`: "parallel", "chunked" or None.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: T is not prefix_tokens + Y * X, a parameter is not [H, 3] or [H], or what
        `dot_product_attention` refuses.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(4.0).reshape(4, 1, 1)  # a row of pixels
      >>> right = jnp.array([[200.0, 0.0, -100.0]])  # the pixel at dx = 1
      >>> ops.gpsa(x, x, x, right, jnp.array([99.0]), grid=(1, 4))[:, 0, 0]
      Array([1., 2., 3., 3.], dtype=float32)

    Reference: convit-gpsa
    """
    down, across, share = _checked(query, position_weight, gate, grid, prefix_tokens)
    content = dot_product_attention(query, key, value, scale=scale, form=form, precision=precision)
    heads, (*batch, _, groups, width) = query.shape[-2], value.shape
    maps = value[..., prefix_tokens:, :, :]
    maps = jnp.repeat(maps, heads // groups, axis=-2).reshape(*batch, *grid, heads, width)

    def along(weights, maps, subscripts):
        return jnp.einsum(
            subscripts,
            weights.astype(value.dtype),
            maps.astype(value.dtype),
            precision=precision,
            preferred_element_type=share.dtype,
        )

    maps = along(across, maps, "hxz,...yzhv->...yxhv")
    maps = lax.collapse(along(down, maps, "hyw,...wxhv->...yxhv"), -4, -2)
    prefix = jnp.zeros((*batch, prefix_tokens, heads, width), maps.dtype)
    place = jnp.concatenate([prefix, maps], -3)
    share = align(share, place, trailing=1)
    return ((1 - share) * content.astype(place.dtype) + share * place).astype(value.dtype)


@op("grid", "prefix_tokens", "precision")
def gpsa_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    position_weight: Float[Array, "H 3"],
    gate: Float[Array, "H"],
    *,
    grid: tuple[int, int],
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The weights by which `gpsa` mixes the values.

        A = (1 - s) softmax(scale q k^T) + s softmax(p),   s = sigmoid(gate)

    Args:
      query: [*B, T, H, K], T = prefix_tokens + Y * X.
      key: [*B, T, G, K], where G divides H.
      position_weight: [H, 3], (w_x, w_y, w_d).
      gate: [H] before the sigmoid.
      grid: (Y, X).
      prefix_tokens: leading tokens outside the grid; their rows are content alone.
      scale: of the content logits; None is K ** -0.5.
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query; every row sums to one.

    Raises:
      ValueError: a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, even = jnp.zeros((2, 1, 1)), jnp.zeros((1, 3))
      >>> ops.gpsa_matrix(x, x, even, jnp.ones(1), grid=(2, 1))[0]
      Array([[0.5, 0.5],
             [0.5, 0.5]], dtype=float32)

    Reference: convit-gpsa
    """
    down, across, share = _checked(query, position_weight, gate, grid, prefix_tokens)
    content = attention_matrix(query, key, scale=scale, precision=precision)
    place = jnp.einsum("hyw,hxz->hyxwz", down, across)
    place = place.reshape(down.shape[0], grid[0] * grid[1], -1)
    place = jnp.pad(place, ((0, 0), (prefix_tokens, 0), (prefix_tokens, 0)))
    share = align(share.T[..., None], content)
    return ((1 - share) * content.astype(share.dtype) + share * align(place, content)).astype(
        query.dtype
    )


@op("heads", "strength", "dtype")
def gpsa_position_weight(
    heads: int, *, strength: float = 1.0, dtype=jnp.float32
) -> Float[Array, "H 3"]:
    """The position weights with which heads start as the taps of a convolution.

    Head i + n j of the n * n heads, n = floor(sqrt(H)), gets w = strength (2 j', 2 i', -1), where
    i' and j' count from the middle of the n x n taps: p = -strength |d - (j', i')|^2 up to a
    constant, largest at the pixel j' to the right and i' down. With n even the middle lies between
    pixels, and a head shares its weight among the four around its tap. Heads beyond n * n get 0,
    the mean over the grid (the released code leaves them at random; the `gpsa` mixer does too).

    Args:
      heads: H.
      strength: how sharply a head looks at its tap; the paper's alpha.
      dtype: of the weights.

    Returns:
      [H, 3].

    Raises:
      ValueError: heads is not positive.

    Example:
      >>> from scanmax import ops
      >>> ops.gpsa_position_weight(5)
      Array([[-1., -1., -1.],
             [-1.,  1., -1.],
             [ 1., -1., -1.],
             [ 1.,  1., -1.],
             [ 0.,  0.,  0.]], dtype=float32)

    Reference: convit-gpsa
    """
    require(heads >= 1, f"heads={heads} must be positive.")
    side = int(np.sqrt(heads))
    taps = np.arange(side) - (side - 1) / 2
    across, down = np.repeat(taps, side), np.tile(taps, side)
    weight = np.zeros((heads, 3))
    weight[: side * side] = np.stack([2 * across, 2 * down, -np.ones(side * side)], -1)
    return jnp.asarray(strength * weight, dtype)

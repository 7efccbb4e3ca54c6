"""k-max pooling: of each channel the k largest values, in the order in which they came."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.contract import check_rank, check_shape, op, require


@op("k")
def k_max_pool(
    x: Float[Array, "*B T C"],
    k: int,
    *,
    where: Bool[Array, "*B T"] | None = None,
    count: Int[Array, "*B"] | None = None,
) -> Float[Array, "*B k C"]:
    """The k largest values of each channel, in the order of their tokens.

        y = (x_{t_1}, ..., x_{t_k}),  t_1 < ... < t_k the places of the k largest

    Of equal values the earlier counts as larger. Where fewer are asked for (`count`) or there
    (`where`, T), zeros fill the end, so that the shape does not depend on the data: a k that
    changes with the length of a sentence is a `count` below a fixed k.

    Args:
      x: the tokens.
      k: rows of the result.
      where: the tokens that count; None is all.
      count: how many are kept of each example, at most k; None is k.

    Returns:
      [*B, k, C] in the dtype of x.

    Raises:
      ValueError: a k below 1, or an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([3.0, 9.0, 1.0, 7.0])[:, None]
      >>> ops.k_max_pool(x, 3)[:, 0]
      Array([3., 9., 7.], dtype=float32)
      >>> ops.k_max_pool(x, 3, count=jnp.array(2))[:, 0]
      Array([9., 7., 0.], dtype=float32)

    Reference: dcnn-dynamic-kmax
    """
    check_rank(2, x=x)
    require(k >= 1, f"k={k}; expected at least 1.")
    check_shape("where", where, x.shape[:-1], "[*B, T]")
    check_shape("count", count, x.shape[:-2], "[*B]")
    length, found = x.shape[-2], min(k, x.shape[-2])
    values = jnp.moveaxis(x, -1, -2)  # [*B, C, T]
    if where is not None:
        values = jnp.where(where[..., None, :], values, -jnp.inf)
    _, places = jax.lax.top_k(jax.lax.stop_gradient(values), found)
    kept = jnp.full(x.shape[:-2], found) if count is None else count
    if where is not None:
        kept = jnp.minimum(kept, where.sum(-1))
    # The largest come first; places of those that are not kept go behind all others.
    rank = jax.lax.broadcasted_iota(kept.dtype, places.shape, places.ndim - 1)
    places = jnp.sort(jnp.where(rank < kept[..., None, None], places, length), -1)
    taken = jnp.take_along_axis(values, jnp.minimum(places, length - 1), -1)
    y = jnp.where(places < length, taken, jnp.zeros((), x.dtype))
    y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, k - found)])
    return jnp.moveaxis(y, -1, -2)

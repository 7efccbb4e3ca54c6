"""Few of many channels of an MLP: its largest activations, and memories found by product keys."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.selection import among_largest

_WEIGHTS: dict[str, Callable] = {"relu": jax.nn.relu, "softmax": jax.nn.softmax}


@op("top_k")
def top_k_activation(x: Float[Array, "*B D"], *, top_k: int) -> Float[Array, "*B D"]:
    """The top_k largest channels of each token; the others become 0.

        y_d = x_d where fewer than top_k channels are larger, or equal and earlier, else 0

    Args:
      x: hidden activations, [*B, D].
      top_k: channels that stay.

    Returns:
      [*B, D] in the dtype of x.

    Raises:
      ValueError: top_k is not in 1..D.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.top_k_activation(jnp.array([3.0, 1.0, 2.0]), top_k=2)
      Array([3., 0., 2.], dtype=float32)

    Reference: sigma-moe-pkm
    """
    check_rank(1, x=x)
    width = x.shape[-1]
    require(1 <= top_k <= width, f"top_k={top_k} with x of shape {x.shape}: expected 1 to {width}.")
    if top_k == width:
        return x
    return jnp.where(among_largest(x, top_k), x, jnp.zeros_like(x))


@op("top_k")
def product_key_top_k(
    first: Float[Array, "*B M"], second: Float[Array, "*B N"], *, top_k: int
) -> tuple[Float[Array, "*B k"], Int[Array, "*B k"]]:
    """The top_k largest of all sums of two scores, found among the largest of each.

        s_(m N + n) = first_m + second_n

    What is among the top_k of all M N sums has parts among the top_k of either side: it is exact,
    at the cost of M + N + top_k log(top_k).

    Args:
      first: scores of the first half of a key.
      second: of the second half.
      top_k: sums that are found.

    Returns:
      The sums, largest first, in the dtype of first, and where they stand among the M N.

    Raises:
      ValueError: top_k is not in 1..M N, or batch axes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> found = ops.product_key_top_k(jnp.array([1.0, 5.0]), jnp.array([0.0, 3.0, 2.0]), top_k=2)
      >>> [part.tolist() for part in found]
      [[8.0, 7.0], [4, 5]]

    Reference: sigma-moe-pkm
    """
    check_rank(1, first=first, second=second)
    M, N = first.shape[-1], second.shape[-1]
    check_shape("second", second, (*first.shape[:-1], N), "[*B, N]")
    require(1 <= top_k <= M * N, f"top_k={top_k}: expected 1 to {M} * {N}.")
    one, rows = lax.top_k(first, min(top_k, M))
    other, columns = lax.top_k(second, min(top_k, N))
    dtype = accumulator_dtype(first, second)
    # Before the sum of the i-th and the j-th come all of an earlier one and an earlier one.
    pairs = np.arange(1, one.shape[-1] + 1)[:, None] * np.arange(1, other.shape[-1] + 1)
    i, j = np.nonzero(pairs <= top_k)
    sums = one.astype(dtype)[..., i] + other.astype(dtype)[..., j]
    places = rows[..., i] * N + columns[..., j]
    largest, chosen = lax.top_k(sums, top_k)
    return largest.astype(first.dtype), jnp.take_along_axis(places, chosen, -1)


@op("top_k", "weights")
def product_key_memory(
    first: Float[Array, "*B M"],
    second: Float[Array, "*B N"],
    values: Float[Array, "R V"],
    *,
    top_k: int,
    weights: str = "relu",
) -> Float[Array, "*B V"]:
    """The values whose product keys score best, weighed by their scores.

        y = sum_(r in top_k) f(s)_r values_r,   s_(m N + n) = first_m + second_n

    An MLP of M N hidden channels of which top_k act, as f is relu: keys are pairs of halves, and
    only M + N of them are scored.

    Args:
      first: scores of the first halves of the keys, [*B, M].
      second: of the second halves, [*B, N].
      values: a row for each of the M N keys.
      top_k: rows that are read.
      weights: f, "relu", or "softmax" over the top_k as in product-key memories before.

    Returns:
      [*B, V] in the dtype of values.

    Raises:
      ValueError: top_k is not in 1..M N, shapes do not fit, or weights has no such value.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> values = jnp.arange(4.0)[:, None]
      >>> first, second = jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0])
      >>> ops.product_key_memory(first, second, values, top_k=1)
      Array([6.], dtype=float32)

    Reference: sigma-moe-pkm
    """
    check_choice("weights", weights, tuple(_WEIGHTS))
    scores, places = product_key_top_k(first, second, top_k=top_k)
    rows = first.shape[-1] * second.shape[-1]
    require(
        values.ndim == 2 and len(values) == rows,
        f"values has shape {values.shape}; expected [{rows}, V].",
    )
    dtype = accumulator_dtype(first, second, values)
    weight = _WEIGHTS[weights](scores.astype(dtype))
    taken = jnp.take(values, places, axis=0).astype(dtype)  # [*B, k, V]
    return jnp.einsum("...k,...kv->...v", weight, taken).astype(values.dtype)

"""What a network of sentences is made of: wide convolution, folding, how many values are kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import accumulator_dtype, check_rank, op, require


@op("precision")
def wide_conv1d(
    x: Float[Array, "*B T D I"],
    kernel: Float[Array, "W D I O"],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B L D O"]:
    """Wide convolution: every tap meets every token, and rows of the sentence stay apart.

        y_t,d = sum_w x_(t + w - W + 1),d kernel_w,d,    L = T + W - 1

    with zeros before and after the sentence. Row d has its own kernel, from I maps to O.

    Args:
      x: I maps of the sentence, D rows each.
      kernel: W taps.
      precision: of the products, as in jax.lax.

    Returns:
      [*B, T + W - 1, D, O] in the dtype of x; sums are in at least float32.

    Raises:
      ValueError: when kernel is not [W, D, I, O].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
      >>> ops.wide_conv1d(x, jnp.array([1.0, 0.0, 10.0]).reshape(3, 1, 1, 1)).ravel()
      Array([10., 20.,  1.,  2.], dtype=float32)

    Reference: dcnn-dynamic-kmax
    """
    check_rank(3, x=x)
    require(
        kernel.ndim == 4 and kernel.shape[1:3] == x.shape[-2:],
        f"kernel has shape {kernel.shape}; expected [W, D, I, O] with [D, I] = {x.shape[-2:]}.",
    )
    width, dtype = len(kernel), accumulator_dtype(x, kernel)
    length = x.shape[-3] + width - 1
    pads = [(0, 0)] * (x.ndim - 3) + [(width - 1, width - 1), (0, 0), (0, 0)]
    padded = jnp.pad(x, pads).astype(dtype)
    taps = [padded[..., w : w + length, :, :] for w in range(width)]
    y = jnp.einsum(
        "...tdi,dio->...tdo",
        jnp.concatenate(taps, -1),
        jnp.concatenate(list(kernel.astype(dtype)), 1),
        precision=precision,
    )
    return y.astype(x.dtype)


@op()
def fold_rows(x: Float[Array, "*B D C"]) -> Float[Array, "*B E C"]:
    """Folding: neighbouring rows of a sentence are added, and half of them are left.

        y_d = x_2d + x_(2d+1)

    Args:
      x: rows on the axis before the last; an even number of them.

    Returns:
      [*B, D / 2, C] in the dtype of x.

    Raises:
      ValueError: when D is odd.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.fold_rows(jnp.arange(4.0)[:, None])[:, 0]
      Array([1., 5.], dtype=float32)

    Reference: dcnn-dynamic-kmax
    """
    check_rank(2, x=x)
    require(x.shape[-2] % 2 == 0, f"x has shape {x.shape}; expected an even number of rows.")
    pairs = x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1])
    return (pairs[..., 0, :] + pairs[..., 1, :]).astype(x.dtype)


@op("layer", "layers", "top")
def dynamic_k(lengths: Int[Array, "*B"], *, layer: int, layers: int, top: int) -> Int[Array, "*B"]:
    """How many values dynamic k-max pooling keeps of a sentence behind a layer.

        k = max(top, ceil((L - l) s / L))

    for layer l of L and a sentence of s tokens: fewer the higher the layer, and `top` at the last.

    Args:
      lengths: s of each sentence.
      layer: l, from 1.
      layers: L.
      top: what the last layer keeps.

    Returns:
      [*B] integers of the dtype of lengths. With T tokens at most max(top, ceil((L - l) T / L)) are
      kept, the `k` for `k_max_pool`, whose `count` these are.

    Raises:
      ValueError: when layer is not one of 1 .. layers, or top is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.dynamic_k(jnp.array([3, 18]), layer=1, layers=3, top=3)
      Array([ 3, 12], dtype=int32)

    Reference: dcnn-dynamic-kmax
    """
    require(1 <= layer <= layers, f"layer={layer}; expected 1 .. layers={layers}.")
    require(top >= 1, f"top={top}; expected at least 1.")
    kept = -(-(layers - layer) * lengths // layers)
    return jnp.maximum(kept, top).astype(lengths.dtype)

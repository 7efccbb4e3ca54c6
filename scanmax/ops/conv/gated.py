"""The recursive gates of HorNet's g^n convolution."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_rank, check_shape, op, require, spread


@op("precision")
def recursive_gate(
    x: Float[Array, "*B T d"],
    gates: Float[Array, "*B T G"],
    kernels: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, "_"]] | None = None,
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B T D"]:
    """Recursive gates: interactions of order n + 1 from n products of pixels.

        p_1 = x g_0,    p_(k+1) = (p_k W_k + b_k) g_k,    k = 1 .. n - 1

    gates holds g_0 .. g_(n-1), which are neighbourhoods of pixels in g^n convolution: a depthwise
    convolution of linear maps of the input, as x is one. There W_k doubles the width.

    Args:
      x: p_0, of width d.
      gates: g_0 of width d, then g_k as wide as W_k makes p_k; G in all.
      kernels: W_1 .. W_(n-1), [d, d_1], [d_1, d_2], ...; none where n = 1.
      biases: b_1 .. b_(n-1); None for none.
      precision: of the products with W_k, as in jax.lax.

    Returns:
      [*B, T, D], D the width of the last gate, in the dtype of x.

    Raises:
      ValueError: when the kernels do not follow each other, or gates has not their widths.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> gates = jnp.array([[3.0, 5.0, 7.0]])
      >>> ops.recursive_gate(jnp.array([[2.0]]), gates, [jnp.ones((1, 2))])
      Array([[30., 42.]], dtype=float32)

    Reference: hornet
    """
    check_rank(2, x=x)
    widths = [x.shape[-1]]
    for kernel in kernels:
        require(
            kernel.ndim == 2 and kernel.shape[0] == widths[-1],
            f"kernels has shapes {[kernel.shape for kernel in kernels]}; expected one that begins "
            f"with the width {widths[-1]} after {len(widths) - 1} of them.",
        )
        widths.append(kernel.shape[1])
    check_shape("gates", gates, (*x.shape[:-1], sum(widths)), "[*B, T, G]")
    if biases is not None:
        found, expected = [bias.shape for bias in biases], [(width,) for width in widths[1:]]
        require(found == expected, f"biases has shapes {found}; expected {expected}.")
    starts = [sum(widths[:k]) for k in range(1, len(widths))]
    first, *rest = jnp.split(gates, starts, -1)
    y = x * first
    for k, (kernel, gate) in enumerate(zip(kernels, rest)):
        y = jnp.matmul(y, kernel.astype(x.dtype), precision=precision)
        if biases is not None:
            y = y + spread(biases[k].astype(x.dtype), y)
        y = y * gate
    return y

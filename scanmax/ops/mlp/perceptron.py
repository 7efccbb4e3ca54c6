"""Mixing of tokens by a perceptron over their axis, the same for every channel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)

_ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


@op("activation", "precision")
def token_mlp(
    x: Float[Array, "*B T D"],
    kernel: Float[Array, "T H"],
    bias: Float[Array, " H"] | None = None,
    out_kernel: Float[Array, "H U"] | None = None,
    out_bias: Float[Array, " U"] | None = None,
    gate_kernel: Float[Array, "T H"] | None = None,
    gate_bias: Float[Array, " H"] | None = None,
    *,
    activation: str = "gelu",
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B U D"]:
    """Two linear maps over the tokens with an activation between, one for all channels.

        y = W2^T f(W1^T x + b1) + b2,    gated  y = W2^T ((W1^T x + b1) f(G^T x + g)) + b2

    Columns of x are channels, so that its cost is linear in T at a given H. Without W2 the map is
    the first alone, y = W1^T x + b1, with no activation: ResMLP's, and U is H.

    Args:
      x: the tokens.
      kernel: W1.
      bias: b1; None leaves it out.
      out_kernel: W2; None leaves the second map and the activation out.
      out_bias: b2, of the second map.
      gate_kernel: G; None takes the activation of the values themselves.
      gate_bias: g.
      activation: f, "gelu", "silu" or "relu".
      precision: of the products, as in jax.lax.

    Returns:
      [*B, U, D] in the dtype of x.

    Raises:
      ValueError: arrays whose shapes do not fit, a gate or out_bias without what it belongs to, an
        unknown activation.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [3.0]])
      >>> ops.token_mlp(x, jnp.eye(2), None, jnp.array([[0.0, 1.0], [2.0, 0.0]]), activation="relu")
      Array([[6.],
             [1.]], dtype=float32)

    Reference: mlp-mixer
    """
    check_rank(2, x=x)
    check_choice("activation", activation, tuple(_ACTIVATIONS))
    tokens = x.shape[-2]
    require(
        kernel.ndim == 2 and kernel.shape[0] == tokens,
        f"kernel has shape {kernel.shape}; expected [{tokens}, H] with x of shape {x.shape}.",
    )
    hidden = kernel.shape[1]
    check_shape("bias", bias, (hidden,), "[H]")
    if out_kernel is None:
        second = {"out_bias": out_bias, "gate_kernel": gate_kernel}
        given = [name for name, array in second.items() if array is not None]
        require(not given, f"{', '.join(given)}: parts of a second map, without its out_kernel.")
    else:
        require(
            out_kernel.ndim == 2 and out_kernel.shape[0] == hidden,
            f"out_kernel has shape {out_kernel.shape}; expected [{hidden}, U].",
        )
        check_shape("out_bias", out_bias, out_kernel.shape[1:], "[U]")
    require(
        gate_bias is None or gate_kernel is not None,
        "gate_bias: part of a gate, without its gate_kernel.",
    )
    check_shape("gate_kernel", gate_kernel, kernel.shape, "[T, H]")
    check_shape("gate_bias", gate_bias, (hidden,), "[H]")
    dtype = accumulator_dtype(x, kernel, bias, out_kernel, out_bias, gate_kernel, gate_bias)

    def over_tokens(z: Array, weights: Array, shift: Array | None) -> Array:
        # In the dtype given, whose sums XLA carries in float32.
        z = jnp.einsum("...td,th->...hd", z, weights.astype(z.dtype), precision=precision)
        z = z.astype(dtype)
        if shift is None:
            return z
        return z + shift.astype(dtype).reshape((1,) * (z.ndim - 2) + (-1, 1))

    y = over_tokens(x, kernel, bias)
    if out_kernel is not None:
        act = _ACTIVATIONS[activation]
        y = act(y) if gate_kernel is None else y * act(over_tokens(x, gate_kernel, gate_bias))
        y = over_tokens(y.astype(x.dtype), out_kernel, out_bias)
    return y.astype(x.dtype)

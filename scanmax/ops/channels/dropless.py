"""Experts that drop nothing: tokens sorted by expert meet its weights in one ragged product."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.channels.grouped import grouped_product
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
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@op("top_k", "activation", "precision")
def dropless_experts(
    x: Float[Array, "*B T D"],
    gates: Float[Array, "*B T E"],
    kernel: Float[Array, "E D F"],
    out_kernel: Float[Array, "E F V"],
    bias: Float[Array, "E F"] | None = None,
    out_bias: Float[Array, "E V"] | None = None,
    gate_kernel: Float[Array, "E D F"] | None = None,
    gate_bias: Float[Array, "E F"] | None = None,
    *,
    top_k: int,
    activation: str = "relu",
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "*B T V"]:
    """MLPs of the experts that each token chose, however many chose the same.

        y_t = sum_e gates_te (f(x_t W_e + b_e) V_e + c_e)

    With `gate_kernel` G the hidden layer is (x W_e + b_e) f(x G_e + g_e). The T top_k choices of
    all examples are sorted by expert and meet its weights in `jax.lax.ragged_dot`, on CPUs in a
    loop over blocks of one expert's tokens: nothing is dropped, and tokens take their turn by
    expert alone. It costs T top_k products of a token and an expert, and on CPUs the rest of each
    expert's last block.

    Args:
      x: the tokens.
      gates: of `expert_gates`: at most top_k of a token are not 0.
      kernel: W.
      out_kernel: V.
      bias: b; None for none.
      out_bias: c.
      gate_kernel: G; None takes the activation of the values themselves.
      gate_bias: g.
      top_k: experts that a token chose.
      activation: f, "gelu", "gelu_tanh", "relu" or "silu".
      precision: of the products, as in jax.lax.

    Returns:
      [*B, T, V] in the dtype of x.

    Raises:
      ValueError: top_k is not in 1..E, shapes do not fit, gate_bias without gate_kernel, or an
        unknown activation.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> weights = jnp.array([1.0, 10.0]).reshape(2, 1, 1)
      >>> gates = jnp.array([[1.0, 0.0], [0.5, 0.5]])
      >>> ops.dropless_experts(jnp.ones((2, 1)), gates, weights, weights, top_k=2)
      Array([[ 1. ],
             [50.5]], dtype=float32)

    Reference: sigma-moe-pkm
    """
    check_rank(2, x=x, gates=gates)
    check_choice("activation", activation, tuple(_ACTIVATIONS))
    *batch, T, D = x.shape
    E = gates.shape[-1]
    check_shape("gates", gates, (*batch, T, E), "[*B, T, E]")
    require(1 <= top_k <= E, f"top_k={top_k} with gates of shape {gates.shape}: expected 1 to {E}.")
    F, V = kernel.shape[-1], out_kernel.shape[-1]
    check_shape("kernel", kernel, (E, D, F), "[E, D, F]")
    check_shape("out_kernel", out_kernel, (E, F, V), "[E, F, V]")
    check_shape("bias", bias, (E, F), "[E, F]")
    check_shape("out_bias", out_bias, (E, V), "[E, V]")
    check_shape("gate_kernel", gate_kernel, (E, D, F), "[E, D, F]")
    check_shape("gate_bias", gate_bias, (E, F), "[E, F]")
    require(
        gate_bias is None or gate_kernel is not None,
        "gate_bias: part of a gate, without its gate_kernel.",
    )
    dtype = accumulator_dtype(x, gates, kernel)
    tokens, flat = lax.collapse(x, 0, x.ndim - 1), lax.collapse(gates, 0, gates.ndim - 1)
    if not len(tokens):
        return jnp.zeros((*batch, T, V), x.dtype)
    chosen = lax.top_k((flat != 0).astype(jnp.float32), top_k)[1]  # [N, k]
    weight = lax.collapse(jnp.take_along_axis(flat, chosen, -1), 0, 2).astype(dtype)
    expert = lax.collapse(chosen, 0, 2)
    order = jnp.argsort(expert, stable=True)
    expert, token = expert[order], order // top_k
    counts = jnp.bincount(expert, length=E).astype(jnp.int32)

    def linear(z, kernel, bias):
        z = grouped_product(z, kernel.astype(z.dtype), counts, precision=precision).astype(dtype)
        return z if bias is None else z + jnp.take(bias, expert, axis=0).astype(dtype)

    act = _ACTIVATIONS[activation]
    taken = jnp.take(tokens, token, axis=0)
    hidden = linear(taken, kernel, bias)
    if gate_kernel is None:
        hidden = act(hidden)
    else:
        hidden = hidden * act(linear(taken, gate_kernel, gate_bias))
    y = linear(hidden.astype(x.dtype), out_kernel, out_bias) * weight[order][:, None]
    y = jnp.zeros((len(tokens), V), dtype).at[token].add(y)
    return y.astype(x.dtype).reshape(*batch, T, V)

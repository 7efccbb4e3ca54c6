"""Experts that drop nothing: every expert's MLP of every token, weighed."""

import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "gelu": lambda x: x * (1 + jax.lax.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": lambda x: jnp.maximum(x, 0),
    "silu": lambda x: x / (1 + jnp.exp(-x)),
}


def dropless_experts(
    x,
    gates,
    kernel,
    out_kernel,
    bias=None,
    out_bias=None,
    gate_kernel=None,
    gate_bias=None,
    *,
    top_k,
    activation="relu",
    precision=None,
):
    """y_t = sum_e gates_te (f(x_t W_e + b_e) V_e + c_e)."""
    del top_k, precision
    act = ACTIVATIONS[activation]

    def linear(letters, z, kernel, bias):
        z = jnp.einsum(letters, z, kernel)
        return z if bias is None else z + jnp.broadcast_to(bias, z.shape)

    hidden = linear("...td,edf->...tef", x, kernel, bias)
    if gate_kernel is None:
        hidden = act(hidden)
    else:
        hidden = hidden * act(linear("...td,edf->...tef", x, gate_kernel, gate_bias))
    return jnp.einsum(
        "...te,...tev->...tv", gates, linear("...tef,efv->...tev", hidden, out_kernel, out_bias)
    )

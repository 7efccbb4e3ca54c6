"""A perceptron over tokens."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, spread


def token_mlp(
    x,
    kernel,
    bias=None,
    out_kernel=None,
    out_bias=None,
    gate_kernel=None,
    gate_bias=None,
    *,
    activation="gelu",
    precision=None,
):
    """y = W2^T f(W1^T x + b1) + b2, f of a gate where there is one."""
    dtype = accumulator_dtype(x, kernel, out_kernel, gate_kernel)

    def over_tokens(z, weights, shift):
        z = jnp.matmul(jnp.swapaxes(z, -1, -2), weights.astype(dtype))  # [*B, D, H]
        z = z if shift is None else z + spread(shift.astype(dtype), z)
        return jnp.swapaxes(z, -1, -2)

    act = {
        "gelu": lambda z: z * (1 + jax.lax.erf(z / jnp.sqrt(jnp.asarray(2, dtype)))) / 2,
        "silu": lambda z: z / (1 + jnp.exp(-z)),
        "relu": lambda z: jnp.maximum(z, 0),
    }[activation]
    z = x.astype(dtype)
    y = over_tokens(z, kernel, bias)
    if out_kernel is not None:
        gate = y if gate_kernel is None else over_tokens(z, gate_kernel, gate_bias)
        y = over_tokens(act(y) if gate_kernel is None else y * act(gate), out_kernel, out_bias)
    return y.astype(x.dtype)

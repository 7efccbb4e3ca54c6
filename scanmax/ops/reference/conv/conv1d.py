"""Causal depthwise convolution, written as its sum."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.segments import segment_runs

_ACTIVATIONS = {None: lambda x: x, "silu": jax.nn.silu, "gelu": jax.nn.gelu, "relu": jax.nn.relu}


def causal_conv1d(
    x,
    kernel,
    bias=None,
    *,
    activation=None,
    segment_ids=None,
    initial_state=None,
    return_state=False,
):
    """y_t = activation(bias + sum_w kernel_w x_{t - (W - 1) + w})."""
    width, length = kernel.shape[0], x.shape[-2]
    if initial_state is None:
        initial_state = jnp.zeros((*x.shape[:-2], width - 1, x.shape[-1]), x.dtype)
    tokens = jnp.concatenate([initial_state.astype(x.dtype), x], axis=-2)
    dtype = accumulator_dtype(x, kernel, bias)
    places = jnp.arange(length)[:, None] + jnp.arange(width)[None]
    windows, state = tokens[..., places, :], tokens[..., length:, :]  # [*B, T, W, D]
    if segment_ids is not None:
        runs = segment_runs(segment_ids)
        first = jnp.zeros((*x.shape[:-2], width - 1), runs.dtype)
        of = jnp.concatenate([first, runs], -1)
        windows = jnp.where((of[..., places] == runs[..., None])[..., None], windows, 0)
        state = jnp.where((of[..., length:] == runs[..., -1:])[..., None], state, 0)
    y = jnp.sum(windows.astype(dtype) * align(kernel.astype(dtype), windows), axis=-2)
    y = y if bias is None else y + align(bias.astype(dtype), y)
    y = _ACTIVATIONS[activation](y).astype(x.dtype)
    return (y, state) if return_state else y


def causal_conv1d_step(state, x, kernel, bias=None, *, activation=None):
    """The convolution of the state and one token."""
    return tuple(
        part[..., 0, :] if i == 0 else part
        for i, part in enumerate(
            causal_conv1d(
                x[..., None, :],
                kernel,
                bias,
                activation=activation,
                initial_state=state,
                return_state=True,
            )
        )
    )

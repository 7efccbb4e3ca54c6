"""Long convolutions as sums over their taps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.ops.contract import accumulator_dtype, align
from scanmax.ops.reference.conv.conv1d import causal_conv1d


def fft_conv(
    x,
    kernel,
    skip=None,
    *,
    mode="causal",
    segment_ids=None,
    initial_state=None,
    return_state=False,
):
    """y_t = skip x_t + sum_j kernel_j x_{t - (j - c)}."""
    if segment_ids is not None:
        # the sum over the windows of a short convolution, oldest tap first
        options = {"initial_state": initial_state, "return_state": True}
        y, state = causal_conv1d(x, kernel[::-1], segment_ids=segment_ids, **options)
        dtype = accumulator_dtype(x, kernel, skip)
        y = y if skip is None else y + x.astype(dtype) * align(skip.astype(dtype), x)
        y = y.astype(x.dtype)
        return (y, state) if return_state else y
    axes, taps = kernel.ndim - 1, kernel.shape[0]
    dtype = accumulator_dtype(x, kernel, skip)
    before = initial_state
    if before is None and return_state:
        before = jnp.zeros((*x.shape[: -axes - 1], taps - 1, x.shape[-1]), x.dtype)
    tokens = x if before is None else jnp.concatenate([before.astype(x.dtype), x], -2)
    y = _sum_of_taps(tokens.astype(dtype), kernel.astype(dtype), mode, _times)
    y = y[..., tokens.shape[-2] - x.shape[-2] :, :]
    y = y if skip is None else y + x.astype(dtype) * align(skip.astype(dtype), x)
    y = y.astype(x.dtype)
    return (y, tokens[..., tokens.shape[-2] - (taps - 1) :, :]) if return_state else y


def fft_conv_dense(x, kernel, *, mode="causal"):
    """y_{t,o} = sum_{j,i} kernel_{j,i,o} x_{t - (j - c), i}."""
    dtype = accumulator_dtype(x, kernel)
    return _sum_of_taps(x.astype(dtype), kernel.astype(dtype), mode, jnp.matmul).astype(x.dtype)


def long_conv_step(state, x, kernel, skip=None):
    """The convolution of the state and one token."""
    y, state = fft_conv(x[..., None, :], kernel, skip, initial_state=state, return_state=True)
    return y[..., 0, :], state


def long_conv_matrix(kernel, skip=None, *, size, mode="causal"):
    """What the convolution does to each unit vector."""
    size = (size,) if isinstance(size, int) else tuple(size)
    tokens = int(np.prod(size))
    units = jnp.eye(tokens, dtype=kernel.dtype).reshape(tokens, *size, 1)
    units = jnp.broadcast_to(units, (tokens, *size, kernel.shape[-1]))
    columns = fft_conv(units, kernel, skip, mode=mode)  # [S, *T, D]
    return columns.reshape(tokens, tokens, -1).transpose(2, 1, 0)


def _times(x, tap):
    return x * align(tap, x)


def _sum_of_taps(x, kernel, mode, product):
    axes = kernel.ndim - (2 if product is jnp.matmul else 1)
    size, taps = x.shape[-axes - 1 : -1], kernel.shape[:axes]
    outer = [(0, 0)] * (x.ndim - axes - 1)
    padded = jnp.pad(
        x,
        [*outer, *((k, k) for k in taps), (0, 0)],
        mode="wrap" if mode == "circular" else "constant",
    )
    total = 0
    for j in itertools.product(*(range(k) for k in taps)):
        lags = [i - k // 2 if mode == "bidirectional" else i for i, k in zip(j, taps)]
        start = [0] * len(outer) + [k - lag for k, lag in zip(taps, lags)] + [0]
        seen = jax.lax.dynamic_slice(padded, start, (*x.shape[: -axes - 1], *size, x.shape[-1]))
        total = total + product(seen, kernel[j])
    return total

"""Causal depthwise convolution over tokens, the short filter in front of every scan."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    spread,
)
from scanmax.ops.segments import segment_starts

ACTIVATIONS = {None: lambda x: x, "silu": jax.nn.silu, "gelu": jax.nn.gelu, "relu": jax.nn.relu}


def neighbours(
    x: Float[Array, "*B T D"],
    width: int,
    ahead: int,
    initial_state: Float[Array, "*B before D"] | None,
    segment_ids: Int[Array, "*B T"] | None,
) -> tuple[list[Array], Array]:
    """What each of `width` taps in a row sees of x [*B, T, D], the last of them `ahead` tokens on.

    Beyond the ends and in other segments lie zeros, before the first token `initial_state`. Beside
    them the last width - 1 tokens, the next state where nothing lies ahead.
    """
    batch, (length, dim), before = x.shape[:-2], x.shape[-2:], width - 1 - ahead
    check_shape("initial_state", initial_state, (*batch, width - 1, dim), "[*B, W-1, D]")
    check_shape("segment_ids", segment_ids, x.shape[:-1], "[*B, T]")
    if initial_state is None:
        initial_state = jnp.zeros((*batch, before, dim), x.dtype)
    after = jnp.zeros((*batch, ahead, dim), x.dtype)
    padded = jnp.concatenate([initial_state.astype(x.dtype), x, after], axis=-2)
    tokens = [padded[..., w : w + length, :] for w in range(width)]
    state = padded[..., length:, :]
    if segment_ids is not None:
        runs = jnp.cumsum(segment_starts(segment_ids), -1)
        edges = [(0, 0)] * (runs.ndim - 1) + [(before, ahead)]
        around = jnp.pad(runs, edges)
        tokens = [
            jnp.where((around[..., w : w + length] == runs)[..., None], token, 0)
            for w, token in enumerate(tokens)
        ]
        state = jnp.where((around[..., length:] == runs[..., -1:])[..., None], state, 0)
    return tokens, state


@op("activation", "return_state")
def causal_conv1d(
    x: Float[Array, "*B T D"],
    kernel: Float[Array, "W D"],
    bias: Float[Array, " D"] | None = None,
    *,
    activation: str | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B before D"] | None = None,
    return_state: bool = False,
):
    """Causal depthwise convolution: every channel has its own filter over the last W tokens.

        y_t = activation(bias + sum_w kernel_w * x_{t - (W - 1) + w})

    The last row of the kernel meets the current token. Evaluated as W shifted multiply-adds, which
    XLA fuses into one pass (a depthwise lax.conv is tens of times slower on CPU).

    Args:
      x: the tokens.
      kernel: the filters, oldest token first.
      bias: added per channel.
      activation: None, "silu", "gelu" (tanh approximation) or "relu".
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the W - 1 tokens before the first, of the first segment; zeros by default.
      return_state: also return the last W - 1 tokens, to go on from; zeros in the place of those of
        segments before the last.

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also [*B, W-1, D] in the dtype of x.

    Raises:
      ValueError: an array of the wrong shape, an unknown activation.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import causal_conv1d
      >>> causal_conv1d(jnp.ones((4, 1)), jnp.array([[1.0], [2.0]]))[:, 0]
      Array([2., 3., 3., 3.], dtype=float32)

    Reference: mamba2-ssd
    """
    _check(x, kernel, bias, activation, 2)
    tokens, state = neighbours(x, kernel.shape[0], 0, initial_state, segment_ids)
    dtype = accumulator_dtype(x, kernel, bias)
    y = sum(
        token.astype(dtype) * spread(kernel[w].astype(dtype), x) for w, token in enumerate(tokens)
    )
    y = _finish(y, bias, activation, dtype).astype(x.dtype)
    return (y, state) if return_state else y


@op("activation")
def causal_conv1d_step(
    state: Float[Array, "*B _ D"],
    x: Float[Array, "*B D"],
    kernel: Float[Array, "W D"],
    bias: Float[Array, " D"] | None = None,
    *,
    activation: str | None = None,
):
    """One token of `causal_conv1d`.

        y_t = activation(bias + sum_w kernel_w * x_{t - (W - 1) + w})

    Args:
      state: the W - 1 tokens before this one, oldest first; zeros at the start.
      x: the token.
      kernel: the filters, oldest token first.
      bias: added per channel.
      activation: None, "silu", "gelu" (tanh approximation) or "relu".

    Returns:
      (y [*B, D] in the dtype of x, the next state).

    Raises:
      ValueError: an array of the wrong shape, an unknown activation.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import causal_conv1d_step
      >>> y, state = causal_conv1d_step(jnp.zeros((1, 1)), jnp.ones(1), jnp.array([[1.0], [2.0]]))
      >>> y
      Array([2.], dtype=float32)

    Reference: mamba2-ssd
    """
    _check(x, kernel, bias, activation, 1)
    width, dim = kernel.shape
    check_shape("state", state, (*x.shape[:-1], width - 1, dim), "[*B, W-1, D]")
    window = jnp.concatenate([state, x[..., None, :].astype(state.dtype)], axis=-2)
    dtype = accumulator_dtype(x, kernel, bias)
    y = (window.astype(dtype) * align(kernel.astype(dtype), window)).sum(-2)
    return _finish(y, bias, activation, dtype).astype(x.dtype), window[..., 1:, :]


def _check(x, kernel, bias, activation, rank):
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_rank(rank, x=x)
    check_rank(2, kernel=kernel)
    check_shape("kernel", kernel, (kernel.shape[0], x.shape[-1]), "[W, D]")
    check_shape("bias", bias, x.shape[-1:], "[D]")


def _finish(y, bias, activation, dtype):
    if bias is not None:
        y = y + spread(bias.astype(dtype), y)
    return ACTIVATIONS[activation](y)

"""Lightweight and dynamic convolution, as the matrix of their softmax taps."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.segments import segment_runs


def _matrix(logits, before, positions, keys):
    """M_{h,t,s} = softmax(logits_{t,h})_{s - t + before} for tokens at positions, keys at keys."""
    width = logits.shape[-1]
    taps = jnp.swapaxes(jax.nn.softmax(logits, -1), -3, -2)
    place = keys[None, :] - positions[:, None] + before
    return sum(
        taps[..., w, None]
        * (place == w).astype(taps.dtype).reshape((1,) * (taps.ndim - 2) + place.shape)
        for w in range(width)
    )


def dynamic_conv_matrix(logits, *, is_causal=True, segment_ids=None):
    """M_{h,t,s} = softmax(logits_{t,h})_{s - t + b}, nothing between segments."""
    length, width = logits.shape[-3], logits.shape[-1]
    places = jnp.arange(length)
    matrix = _matrix(logits, width - 1 if is_causal else width // 2, places, places)
    if segment_ids is not None:
        runs = segment_runs(segment_ids)
        same = runs[..., :, None] == runs[..., None, :]
        matrix = jnp.where(same[..., None, :, :], matrix, 0)
    return matrix


def dynamic_conv(
    x, logits, *, is_causal=True, segment_ids=None, initial_state=None, return_state=False
):
    """y_t = sum_w softmax(logits_{t,h})_w x_{t - b + w}, by the matrix over tokens."""
    length, (heads, width) = x.shape[-2], logits.shape[-2:]
    state = initial_state
    if state is None:
        state = jnp.zeros((*x.shape[:-2], width - 1, x.shape[-1]), x.dtype)
    tokens = jnp.concatenate([state, x], -2)
    positions, keys = jnp.arange(length), jnp.arange(1 - width, length)
    matrix = _matrix(logits, width - 1 if is_causal else width // 2, positions, keys)
    state = tokens[..., length:, :]
    if segment_ids is not None:
        runs = segment_runs(segment_ids)
        of = jnp.concatenate([jnp.zeros((*x.shape[:-2], width - 1), runs.dtype), runs], -1)
        matrix = jnp.where((runs[..., :, None] == of[..., None, :])[..., None, :, :], matrix, 0)
        state = jnp.where((of[..., length:] == runs[..., -1:])[..., None], state, 0)
    split = tokens.reshape(*tokens.shape[:-1], heads, x.shape[-1] // heads)
    y = jnp.einsum("...hts,...shk->...thk", matrix, split).reshape(x.shape)
    return (y, state) if return_state else y


def lightweight_conv(
    x, logits, *, is_causal=True, segment_ids=None, initial_state=None, return_state=False
):
    """y_t = sum_w softmax(logits_h)_w x_{t - b + w}: every token brings the same taps."""
    return dynamic_conv(
        x,
        jnp.broadcast_to(logits, (*x.shape[:-1], *logits.shape)),
        is_causal=is_causal,
        segment_ids=segment_ids,
        initial_state=initial_state,
        return_state=return_state,
    )


def dynamic_conv_step(state, x, logits):
    """The convolution of the state and one token."""
    y, state = dynamic_conv(
        x[..., None, :], logits[..., None, :, :], initial_state=state, return_state=True
    )
    return y[..., 0, :], state


def lightweight_conv_step(state, x, logits):
    """The convolution of the state and one token."""
    y, state = lightweight_conv(x[..., None, :], logits, initial_state=state, return_state=True)
    return y[..., 0, :], state

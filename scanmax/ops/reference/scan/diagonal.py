"""The diagonal linear recurrence, one token at a time."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype


def diagonal_scan(
    decay,
    x,
    *,
    axis=-2,
    reverse=False,
    bidirectional=False,
    segment_ids=None,
    initial_state=None,
    return_state=False,
):
    """h_t = decay_t * h_{t-1} + x_t, from the last token to the first when reversed."""
    if bidirectional:
        options = {"axis": axis, "segment_ids": segment_ids}
        both = (diagonal_scan(decay, x, reverse=way, **options) for way in (False, True))
        return sum(both) - x
    dtype = accumulator_dtype(decay, x, initial_state)
    axis %= x.ndim
    decay, inputs = (jnp.moveaxis(y.astype(dtype), axis, 0) for y in (decay, x))  # [T, ...]
    if initial_state is None:
        initial_state = jnp.zeros(inputs.shape[1:], dtype)
    if segment_ids is None:
        segment_ids = jnp.zeros(x.shape[: axis + 1], jnp.int32)
    segments = jnp.moveaxis(segment_ids, -1, 0)
    segments = segments.reshape(segments.shape + (1,) * (x.ndim - segments.ndim))

    def step(carry, token):
        h, segment = carry
        decay_t, x_t, segment_t = token
        h = decay_t * jnp.where(segment_t == segment, h, 0) + x_t
        return (h, segment_t), h

    carry = initial_state.astype(dtype), segments[-1 if reverse else 0]
    (state, _), states = lax.scan(step, carry, (decay, inputs, segments), reverse=reverse)
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    states = jnp.moveaxis(states, 0, axis).astype(dtype if is_complex else x.dtype)
    return (states, state) if return_state else states

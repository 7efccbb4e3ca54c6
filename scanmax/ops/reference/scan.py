"""The diagonal linear recurrence, one token at a time."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype


def diagonal_scan(decay, x, *, axis=-2, reverse=False, initial_state=None, return_state=False):
    """h_t = decay_t * h_{t-1} + x_t, from the last token to the first when reversed."""
    dtype = accumulator_dtype(decay, x, initial_state)
    decay, inputs = (jnp.moveaxis(y.astype(dtype), axis, 0) for y in (decay, x))  # [T, ...]
    if initial_state is None:
        initial_state = jnp.zeros(inputs.shape[1:], dtype)

    def step(h, token):
        decay_t, x_t = token
        h = decay_t * h + x_t
        return h, h

    state, states = lax.scan(step, initial_state.astype(dtype), (decay, inputs), reverse=reverse)
    states = jnp.moveaxis(states, 0, axis).astype(x.dtype)
    return (states, state) if return_state else states

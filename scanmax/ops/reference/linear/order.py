"""How the equations of the linear-order family are applied: by their matrix, or token by token."""

import jax.numpy as jnp
from jax import lax

from scanmax.ops.contract import accumulator_dtype


def apply_matrix(matrix, value):
    """y_i = sum_j w_ij v_j."""
    dtype = accumulator_dtype(matrix, value)
    y = jnp.einsum("...hij,...jhv->...ihv", matrix.astype(dtype), value.astype(dtype))
    return y.astype(value.dtype)


def by_token(step, initial_state, *arrays, width=None):
    """`step(state, *arrays at t) -> (y_t, state)` over the tokens [*B, T, H, .]: y and the state.

    The state starts as zeros of [*B, H, K + 1, V + 1], K the width of the keys' features; key and
    value come second and third.
    """
    key, value = arrays[1:3]
    time = value.ndim - 3
    if initial_state is None:
        width = key.shape[-1] if width is None else width
        shape = (*value.shape[:-3], value.shape[-2], width + 1, value.shape[-1] + 1)
        initial_state = jnp.zeros(shape, value.dtype)
    dtype = accumulator_dtype(*arrays, initial_state)

    def token(state, inputs):
        y, state = step(state, *inputs)
        return state, y

    tokens = [None if x is None else jnp.moveaxis(x, time, 0) for x in arrays]
    state, y = lax.scan(token, initial_state.astype(dtype), tokens)
    return jnp.moveaxis(y, 0, time), state


def sums(state, key, value, turned_key=None):
    """The state with a token added: sums of k v^T, of k, of v, and the number of tokens."""
    one = jnp.ones_like(value[..., :1])
    plain = jnp.concatenate([key, one], -1)[..., :, None]
    turned = jnp.concatenate([key if turned_key is None else turned_key, one], -1)[..., :, None]
    return jnp.concatenate(
        [state[..., :-1] + turned * value[..., None, :], state[..., -1:] + plain], -1
    )


def pairs(query, key):
    """q_i . k_j, [*B, H, i, j]."""
    return jnp.einsum("...ihk,...jhk->...hij", query, key)


def seen(matrix, is_causal):
    """Which tokens a query reads, [*B, H, i, j] of ones and zeros."""
    return jnp.tril(jnp.ones_like(matrix)) if is_causal else jnp.ones_like(matrix)

"""Tokens to slots and back, as their equations."""

import jax.numpy as jnp


def _weights(logits, axis, where=True):
    scores = jnp.where(where, jnp.exp(logits - jnp.max(logits, axis, keepdims=True)), 0.0)
    total = jnp.sum(scores, axis, keepdims=True)
    return scores / jnp.where(total == 0, 1.0, total)


def aggregate_tokens(x, logits, mask=None, *, precision=None):
    """y_m = sum_t a_tm x_t with a the softmax over tokens, slot by slot."""
    where = True if mask is None else mask[..., None]
    weights = _weights(logits, -2, where)
    slots = [
        jnp.sum(weights[..., m : m + 1] * jnp.where(where, x, 0.0), axis=-2)
        for m in range(logits.shape[-1])
    ]
    return jnp.stack(slots, axis=-2)


def dispatch_tokens(slots, logits, *, precision=None):
    """y_t = sum_m d_tm c_m with d the softmax over slots."""
    weights = _weights(logits, -1)
    return sum(weights[..., m : m + 1] * slots[..., m : m + 1, :] for m in range(slots.shape[-2]))


def cosine(x, y):
    """x . y / (|x| |y|) along the last axis, 0 where either is zero."""
    norms = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return jnp.sum(x * y, axis=-1) / jnp.where(norms == 0, 1.0, norms)


def slot_logits(x, slots, *, scale=None, precision=None):
    """scale cos(x_t, c_m)."""
    scale = x.shape[-1] ** -0.5 if scale is None else scale
    return scale * cosine(x[..., :, None, :], slots[..., None, :, :])


def slot_matrix(logits, mixing=None, *, precision=None):
    """Column s of head h is what the token e_s becomes: gathered, mixed, given back."""
    tokens = jnp.eye(logits.shape[-2], dtype=logits.dtype)
    tokens = jnp.broadcast_to(tokens, (*logits.shape[:-1], logits.shape[-2]))
    slots = aggregate_tokens(tokens, logits)[..., None, :, :]
    if mixing is not None:
        slots = mixing @ slots
    heads = [dispatch_tokens(slots[..., h, :, :], logits) for h in range(slots.shape[-3])]
    return jnp.stack(heads, axis=-3)


def set_pool(x, logits, mask=None):
    """y_d = sum_n s_nd x_nd with s the softmax over the set, feature by feature."""
    where = True if mask is None else mask[..., None]
    return jnp.sum(_weights(logits, -2, where) * jnp.where(where, x, 0.0), axis=-2)

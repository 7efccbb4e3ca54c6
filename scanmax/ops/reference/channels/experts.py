"""Mixtures of experts, as their equations."""

import jax
import jax.numpy as jnp


def _is_chosen(p, top_k):
    """Whether fewer than top_k experts of the token are larger, or equal and earlier."""
    e = jnp.arange(p.shape[-1])
    earlier = jnp.broadcast_to(e[:, None] < e[None], (*p.shape, p.shape[-1]))
    left, right = p[..., :, None], p[..., None, :]
    before = (left > right) | ((left == right) & earlier)
    return jnp.sum(before, -2) < top_k


def _places(gates, capacity):
    """[*B, T, E, C]: 1 where the token is the c-th that the expert takes."""
    taken = (gates != 0).astype(jnp.int32)
    # Counted from 1; a token that is not taken is at 0.
    place = taken * jnp.cumsum(taken, -2, dtype=jnp.int32)
    return jax.nn.one_hot(place - 1, capacity, dtype=gates.dtype)


def expert_gates(logits, selection=None, *, top_k, capacity=None, normalize=True, scores="softmax"):
    """p = top_k(softmax(logits)), normalised, 0 where the expert has its tokens."""
    p = jax.nn.softmax(logits, -1) if scores == "softmax" else 1 / (1 + jnp.exp(-logits))
    p = jnp.where(_is_chosen(p if selection is None else selection, top_k), p, 0.0)
    if normalize:
        p = p / jnp.sum(p, -1, keepdims=True)
    if capacity is not None:
        p = p * jnp.sum(_places(p, capacity), -1)
    return p


def dispatch_to_experts(x, gates, *, capacity):
    """y_ec = sum_t [t is the c-th token of e] x_t."""
    return jnp.einsum("...tec,...td->...ecd", _places(gates, capacity).astype(x.dtype), x)


def combine_experts(y, gates, *, top_k):
    """z_t = sum_e gates_te sum_c [t is the c-th token of e] y_ec."""
    del top_k
    places = _places(gates, y.shape[-2]).astype(y.dtype)
    return jnp.einsum("...te,...tec,...ecv->...tv", gates.astype(y.dtype), places, y)

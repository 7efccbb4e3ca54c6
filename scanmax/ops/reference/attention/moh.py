"""Mixture-of-head attention, as its equations."""

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.reference.attention.dot_product import attention_matrix


def _is_chosen(p, top_k):
    """Whether fewer than top_k heads of the token are larger, or equal and earlier."""
    i = jnp.arange(p.shape[-1])
    earlier = jnp.broadcast_to(i[:, None] < i[None], (*p.shape, p.shape[-1]))
    left, right = p[..., :, None], p[..., None, :]
    before = (left > right) | ((left == right) & earlier)
    return jnp.sum(before, -2) < top_k


def moh_gates(routed_logits, shared_logits=None, balance_logits=None, *, top_k, rescale=True):
    """gates = [a softmax(shared), b top_k(softmax(routed))], (a, b) = softmax(balance)."""
    p = jax.nn.softmax(routed_logits, -1)
    p = jnp.where(_is_chosen(p, top_k), p, 0.0)
    shared = jnp.zeros_like(p[..., :0])
    if shared_logits is not None:
        shared = jax.nn.softmax(shared_logits, -1)
    if rescale:
        p = top_k * p / jnp.sum(p, -1, keepdims=True)
        shared = shared_logits.shape[-1] * shared if shared_logits is not None else shared
    if balance_logits is not None:
        pair = jax.nn.softmax(balance_logits, -1) * (2.0 if rescale else 1.0)
        shared, p = shared * pair[..., :1], p * pair[..., 1:]
    return jnp.concatenate([shared, p], -1)


def moh_query_logits(query):
    """n / std(n),   n_h = |q_h|."""
    squares = jnp.sum(query * query, -1)
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    mean = jnp.mean(norms, -1, keepdims=True)
    variance = jnp.sum((norms - mean) ** 2, -1, keepdims=True) / (norms.shape[-1] - 1)
    return norms / jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 1)


def moh_quantized_gates(routed_logits, *, shared_heads, top_k, straight_through=True):
    """gates = [1, ..., 1, top_k(1)], with the gradient of top_k(softmax(routed_logits))."""
    p = jax.nn.softmax(routed_logits, -1)
    chosen = _is_chosen(p, top_k)
    moving = jnp.where(chosen, p, 0.0)
    if not straight_through:
        moving = lax.stop_gradient(moving)
    routed = jnp.where(chosen, 1.0, 0.0) + moving - lax.stop_gradient(moving)
    return jnp.concatenate([jnp.ones((*p.shape[:-1], shared_heads), p.dtype), routed], -1)


def head_load_balance(routed_logits, *, top_k, rescale=True):
    """sum_i P_i f_i, times the number of heads."""
    p = lax.collapse(jax.nn.softmax(routed_logits, -1), 0, -1)
    f = jnp.mean(_is_chosen(p, top_k).astype(p.dtype), 0)
    return jnp.sum(jnp.mean(p, 0) * f) * (p.shape[-1] if rescale else 1)


def moh_attention_matrix(
    query, key, gates, *, scale=None, is_causal=False, normalizer="softmax", precision=None
):
    """A_hts = g_th P_hts."""
    weights = attention_matrix(
        query, key, scale=scale, is_causal=is_causal, normalizer=normalizer, precision=precision
    )
    gates = jnp.swapaxes(gates, -1, -2)[..., None]
    return jnp.where(gates == 0, 0.0, gates * weights)


def moh_attention(
    query,
    key,
    value,
    gates,
    *,
    shared_heads,
    top_k,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    precision=None,
):
    """y_th = sum_s A_hts v_sh: which heads are shared or routed changes nothing."""
    weights = moh_attention_matrix(
        query,
        key,
        gates,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        precision=precision,
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)

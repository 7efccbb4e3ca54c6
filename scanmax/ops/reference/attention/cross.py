"""Cross-attentions and the rollout, as their equations."""

import functools

import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import dot_product_attention


def attention_rollout(matrices, *, num_queries=None, residual=0.5, precision=None):
    """S = S_L ... S_1, S_l = residual I + (1 - residual) mean_h A_l."""
    T = matrices[0].shape[-1]
    identity = jnp.broadcast_to(jnp.eye(T), jnp.mean(matrices[0], -3).shape)
    steps = [residual * identity + (1 - residual) * jnp.mean(A, -3) for A in matrices]
    product = functools.reduce(lambda S, step: jnp.matmul(step, S, precision=precision), steps)
    return product[..., :num_queries, :]


def global_local_cross_attention(
    query,
    key,
    value,
    scores,
    *,
    num_queries,
    prefix_tokens=0,
    scale=None,
    precision=None,
):
    """y_r = softmax(scale q_{i_r} k^T) v."""
    scores = jnp.asarray(scores).at[..., :prefix_tokens].set(jnp.inf)
    token = jnp.sort(jnp.argsort(-scores, axis=-1, stable=True)[..., :num_queries], -1)
    query = jnp.take_along_axis(query, token[..., None, None], -3)
    y = dot_product_attention(query, key, value, scale=scale, precision=precision)
    return y, token.astype(jnp.int32)


def pairwise_cross_attention(
    query,
    key,
    value,
    other_key,
    other_value,
    other_mask=None,
    *,
    scale=None,
    precision=None,
):
    """y = softmax(scale q [k; k']^T) [v; v']."""
    keys = jnp.concatenate([key, other_key], -3)
    values = jnp.concatenate([value, other_value], -3)
    if other_mask is None:
        other_mask = jnp.ones(other_key.shape[:-2], bool)
    mask = jnp.concatenate([jnp.ones(key.shape[:-2], bool), other_mask], -1)
    mask = mask[..., None, None, :]
    return dot_product_attention(query, keys, values, mask=mask, scale=scale, precision=precision)


def conditional_cross_attention(queries, condition, key, value, *, scale=None, precision=None):
    """y = softmax(scale queries[condition] k^T) v."""
    query = queries[condition]
    return dot_product_attention(query, key, value, scale=scale, precision=precision)

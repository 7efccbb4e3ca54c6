"""Inverted softmax over banks, as its equations."""

import jax.numpy as jnp


def _factor(similarity, bank, beta):
    """exp(beta s_qg) / sum_n exp(beta bank_ng)."""
    return jnp.exp(beta * similarity) / jnp.sum(jnp.exp(beta * bank), -2, keepdims=True)


def _found(similarity, k):
    """Whether an item is among the k nearest: fewer than k are nearer, or as near and before it."""
    item, other = similarity[..., :, None], similarity[..., None, :]
    before = (other > item) | jnp.tril(other == item, -1)
    return jnp.sum(before, -1) < k


def _active(similarity, bank, top_k):
    hubs = jnp.any(_found(bank, top_k), -2, keepdims=True)
    return jnp.any(_found(similarity, 1) & hubs, -1, keepdims=True)


def inverted_softmax(similarity, bank, *, beta=20.0, dynamic=False, top_k=1, log=False):
    """y_qg = exp(beta s_qg) / sum_n exp(beta bank_ng); dynamic only where s_q points to a hub."""
    y = _factor(similarity, bank, beta)
    y = jnp.log(y) if log else y
    return jnp.where(_active(similarity, bank, top_k), y, similarity) if dynamic else y


def dual_inverted_softmax(
    similarity,
    query_bank,
    gallery_bank,
    *,
    query_beta=20.0,
    gallery_beta=20.0,
    dynamic=False,
    top_k=1,
    inactive="similarity",
):
    """y = factor of the query bank * factor of the gallery bank."""
    first = _factor(similarity, query_bank, query_beta)
    second = _factor(similarity, gallery_bank, gallery_beta)
    if not dynamic:
        return first * second
    one, other = (_active(similarity, bank, top_k) for bank in (query_bank, gallery_bank))
    if inactive == "similarity":
        return jnp.where(one, first, similarity) * jnp.where(other, second, similarity)
    y = jnp.where(one, first, 1) * jnp.where(other, second, 1)
    return jnp.where(one | other, y, similarity)


def k_occurrence(similarity, *, k=10):
    """N_g = |{q : g among the k largest s_qg}|."""
    return jnp.sum(_found(similarity, k), -2).astype(jnp.int32)


def hubness(similarity, *, k=10):
    """mean((N - mean N)^3) / std(N)^3."""
    counts = k_occurrence(similarity, k=k).astype(similarity.dtype)
    centred = counts - counts.mean(-1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(-1))
    skewness = (centred**3).mean(-1) / jnp.where(deviation == 0, 1, deviation) ** 3
    return jnp.where(deviation == 0, 0, skewness)

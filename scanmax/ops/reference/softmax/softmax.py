"""Softmax and its kin, as their equations."""

import jax.numpy as jnp


def _normalise(scores, axis, where):
    """scores_i / sum_j scores_j; an empty sum gives 0."""
    scores = jnp.where(True if where is None else where, scores, 0)
    total = jnp.sum(scores, axis, keepdims=True)
    return scores / jnp.where(total == 0, 1, total)


def _largest(logits, axis, where):
    """The maximum over what takes part, 0 where that is nothing or -inf."""
    masked = jnp.where(True if where is None else where, logits, -jnp.inf)
    largest = jnp.max(masked, axis, keepdims=True)
    return jnp.where(jnp.isneginf(largest), 0, largest)


def _tempered(logits, temperature, where):
    """x / t where it takes part, which is returned as well."""
    where = jnp.ones_like(logits, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    where = where & ~jnp.isneginf(logits)
    x = jnp.where(where, logits, 0)
    return (x if temperature is None else x / temperature), where


def softmax(logits, axis=-1, where=None, *, temperature=None):
    """y_i = exp(x_i / t) / sum_j exp(x_j / t), where exp(x - c) in both leaves y as it is."""
    logits, where = _tempered(logits, temperature, where)
    shifted = jnp.where(where, logits, 0) - _largest(logits, axis, where)
    return _normalise(jnp.exp(jnp.where(where, shifted, 0)), axis, where)


def log_softmax(logits, axis=-1, where=None, *, temperature=None):
    """y_i = log(exp(x_i / t) / sum_j exp(x_j / t))."""
    logits, where = _tempered(logits, temperature, where)
    shifted = jnp.where(where, jnp.where(where, logits, 0) - _largest(logits, axis, where), 0)
    total = jnp.sum(jnp.where(where, jnp.exp(shifted), 0), axis, keepdims=True)
    return jnp.where(where, shifted - jnp.log(jnp.where(total == 0, 1, total)), -jnp.inf)


def _stable_score(x):
    """s(x) = x + 1 for x >= 0, 1 / (1 - x) for x < 0."""
    return jnp.where(x >= 0, x + 1, 1 / (1 - jnp.where(x >= 0, 0, x)))


def stablemax(logits, axis=-1, where=None):
    """y_i = s(x_i) / sum_j s(x_j)."""
    return _normalise(_stable_score(logits), axis, where)


def log_stablemax(logits, axis=-1, where=None):
    """y_i = log(s(x_i) / sum_j s(x_j))."""
    weights = stablemax(logits, axis, where)
    return jnp.where(weights > 0, jnp.log(jnp.where(weights > 0, weights, 1)), -jnp.inf)


def sigmoid_weights(logits, axis=-1, where=None, *, bias=None):
    """y_i = 1 / (1 + exp(-(x_i + bias))), bias = -log n."""
    if bias is None:
        taken = jnp.ones(logits.shape, bool) if where is None else where
        taken = jnp.broadcast_to(taken, logits.shape)
        n = jnp.sum(taken, axis, keepdims=True)
        bias = -jnp.log(jnp.maximum(n, 1).astype(logits.dtype))
    weights = 1 / (1 + jnp.exp(-(logits + jnp.asarray(bias, logits.dtype))))
    return weights if where is None else jnp.where(where, weights, 0)


def extexp(x):
    """exp(x) = m 2^n, n = round(x log2 e), m = exp(x - n ln 2)."""
    n = jnp.round(x / jnp.log(jnp.asarray(2, x.dtype)))
    whole = jnp.where(jnp.isneginf(x), 0, n)
    m = jnp.exp(jnp.where(jnp.isneginf(x), 0, x) - whole * jnp.log(jnp.asarray(2, x.dtype)))
    return jnp.where(jnp.isneginf(x), 0, m), n


def extexp_add(left, right):
    """(m, n) + (m', n') = (m 2^(n - N) + m' 2^(n' - N), N), N = max(n, n')."""
    largest = jnp.maximum(left[1], right[1])
    safe = jnp.where(jnp.isneginf(largest), 0, largest)
    return left[0] * 2 ** (left[1] - safe) + right[0] * 2 ** (right[1] - safe), largest


def extexp_sum(logits, axis=-1, where=None):
    """m 2^n = sum_j exp(x_j), n the largest exponent."""
    m, n = extexp(jnp.where(True if where is None else where, logits, -jnp.inf))
    largest = jnp.max(n, axis, keepdims=True)
    safe = jnp.where(jnp.isneginf(largest), 0, largest)
    return jnp.sum(m * 2 ** (n - safe), axis), jnp.squeeze(largest, axis)

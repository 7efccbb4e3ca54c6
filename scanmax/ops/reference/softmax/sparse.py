"""Sparsemax and 1.5-entmax, by halving the interval that holds the threshold."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.softmax.softmax import _largest


def _at_threshold(score, logits, axis, where, span):
    """y = score(x - tau), tau such that sum(y) = 1; score(span) = 1."""
    where = jnp.ones_like(logits, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    where = where & ~jnp.isneginf(logits)
    x = jnp.where(where, logits, 0)

    def total(x, threshold):
        return jnp.sum(jnp.where(where, score(x - threshold), 0), axis, keepdims=True)

    constant = jax.lax.stop_gradient(x)
    high = _largest(constant, axis, where)
    low = high - span
    for _ in range(40):
        middle = (low + high) / 2
        above = total(constant, middle) >= 1
        low, high = jnp.where(above, middle, low), jnp.where(above, high, middle)
    # one step of Newton's method: exact to the last digit, and it has the gradient of tau
    slope = -jax.grad(lambda threshold: jnp.sum(total(constant, threshold)))(low)
    slope = jnp.where(slope == 0, 1, slope)
    threshold = low + (total(x, low) - 1) / slope
    empty = ~jnp.any(where, axis, keepdims=True)
    threshold = jnp.where(empty, 0, threshold)
    return jnp.where(where, score(x - threshold), 0)


def sparsemax(logits, axis=-1, where=None):
    """y_i = relu(x_i - tau), sum_i y_i = 1."""
    return _at_threshold(lambda x: jnp.maximum(x, 0), logits, axis, where, 1.0)


def entmax15(logits, axis=-1, where=None):
    """y_i = relu(x_i / 2 - tau)^2, sum_i y_i = 1."""
    return _at_threshold(lambda x: jnp.maximum(x / 2, 0) ** 2, logits, axis, where, 2.0)

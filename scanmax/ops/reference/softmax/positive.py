"""Softmax with another positive score than exp, as its equations."""

import jax.numpy as jnp

from scanmax.ops.reference.softmax.softmax import _largest


def _taking_part(logits, where):
    where = jnp.ones_like(logits, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    return where & ~jnp.isneginf(logits)


def _normalise(score, logits, axis, where, eps=0.0):
    """s(x_i) / (sum_j s(x_j) + eps) over what takes part; an empty sum gives 0."""
    where = _taking_part(logits, where)
    scores = jnp.where(where, score(jnp.where(where, logits, 0)), 0)
    total = jnp.sum(scores, axis, keepdims=True) + eps
    return scores / jnp.where(total == 0, 1, total)


def _number(logits, axis, where):
    """How many logits a slice has that `where` does not leave out."""
    where = jnp.ones_like(logits, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    return jnp.sum(where.astype(logits.dtype), axis, keepdims=True)


def relu_softmax(logits, axis=-1, where=None, *, eps=1e-5):
    """y_i = relu(x_i) / (sum_j relu(x_j) + eps)."""
    return _normalise(lambda x: jnp.where(x > 0, x, 0), logits, axis, where, eps)


def squared_relu_softmax(logits, axis=-1, where=None, *, eps=1e-5):
    """y_i = relu(x_i)^2 / (sum_j relu(x_j)^2 + eps)."""
    return _normalise(lambda x: jnp.where(x > 0, x, 0) ** 2, logits, axis, where, eps)


def two_quad(logits, axis=-1, where=None, *, shift=5.0, eps=0.0):
    """y_i = (x_i + c)^2 / (sum_j (x_j + c)^2 + eps)."""
    return _normalise(lambda x: (x + shift) ** 2, logits, axis, where, eps)


def softplus_softmax(logits, axis=-1, where=None, *, dim=None, length_scale=True):
    """y_i = log(1 + exp(f x_i)) / sum_j log(1 + exp(f x_j)), f = log d log n."""
    factor = 1.0 if dim is None else jnp.log(jnp.asarray(dim, logits.dtype))
    if length_scale:
        factor = factor * jnp.log(jnp.maximum(_number(logits, axis, where), 1))
    return _normalise(lambda x: jnp.logaddexp(0.0, factor * x), logits, axis, where)


def reweight_power(weights, axis=-1, where=None, *, power=3.0, offset=1.0):
    """y_i = r_i / sum_j r_j, r_i = relu(n a_i - offset)^power; offset 0 where n = 1."""
    n = _number(weights, axis, where)
    taken_off = jnp.where(n > 1, offset, 0.0)
    above = jnp.where(_taking_part(weights, where), jnp.maximum(n * weights - taken_off, 0), 0)
    # the same quotient, with r relative to its largest value
    largest = jnp.max(above, axis, keepdims=True)
    above = above / jnp.where(largest == 0, 1, largest)
    return _normalise(lambda r: r**power, above, axis, where)


def softmax_one(logits, axis=-1, where=None, *, null=0.0):
    """y_i = exp(x_i) / (exp(null) + sum_j exp(x_j)), where exp(x - c) in all leaves y as it is."""
    where = _taking_part(logits, where)
    level = jnp.maximum(_largest(logits, axis, where), null)
    scores = jnp.where(where, jnp.exp(jnp.where(where, logits, 0) - level), 0)
    return scores / (jnp.exp(null - level) + jnp.sum(scores, axis, keepdims=True))

"""EvoNorm, as its six equations."""

import jax
import jax.numpy as jnp


def _finish(y, scale, bias):
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def _batch(x, variance, epsilon):
    return jnp.broadcast_to(jnp.sqrt(variance + epsilon), x.shape)


def _by_group(x, groups, statistic, epsilon):
    """sqrt(statistic + epsilon) over space and the channels of each group, as a map like x."""
    return jnp.concatenate(
        [
            jnp.broadcast_to(jnp.sqrt(statistic(part, (-3, -2, -1)) + epsilon), part.shape)
            for part in jnp.split(x, groups, axis=-1)
        ],
        -1,
    )


def _variance(x, axes):
    return jnp.var(x, axes, keepdims=True)


def _mean_square(x, axes):
    return jnp.mean(x**2, axes, keepdims=True)


def evonorm_b0(x, variance, v, scale=None, bias=None, *, epsilon=1e-5):
    """y = x / max(sqrt(variance + eps), v x + sqrt(var_yx(x) + eps)) * scale + bias."""
    instance = jnp.sqrt(_variance(x, (-3, -2)) + epsilon)
    other = jnp.broadcast_to(v, x.shape) * x + instance
    return _finish(x / jnp.maximum(_batch(x, variance, epsilon), other), scale, bias)


def evonorm_b1(x, variance, scale=None, bias=None, *, epsilon=1e-5):
    """y = x / max(sqrt(variance + eps), (x + 1) sqrt(mean_yx(x^2) + eps)) * scale + bias."""
    other = (x + 1) * jnp.sqrt(_mean_square(x, (-3, -2)) + epsilon)
    return _finish(x / jnp.maximum(_batch(x, variance, epsilon), other), scale, bias)


def evonorm_b2(x, variance, scale=None, bias=None, *, epsilon=1e-5):
    """y = x / max(sqrt(variance + eps), sqrt(mean_yx(x^2) + eps) - x) * scale + bias."""
    other = jnp.sqrt(_mean_square(x, (-3, -2)) + epsilon) - x
    return _finish(x / jnp.maximum(_batch(x, variance, epsilon), other), scale, bias)


def evonorm_s0(x, v, scale=None, bias=None, *, groups=32, epsilon=1e-5):
    """y = x sigmoid(v x) / sqrt(var_yxg(x) + eps) * scale + bias."""
    gated = x * jax.nn.sigmoid(jnp.broadcast_to(v, x.shape) * x)
    return _finish(gated / _by_group(x, groups, _variance, epsilon), scale, bias)


def evonorm_s1(x, scale=None, bias=None, *, groups=32, epsilon=1e-5):
    """y = x sigmoid(x) / sqrt(var_yxg(x) + eps) * scale + bias."""
    gated = x * jax.nn.sigmoid(x)
    return _finish(gated / _by_group(x, groups, _variance, epsilon), scale, bias)


def evonorm_s2(x, scale=None, bias=None, *, groups=32, epsilon=1e-5):
    """y = x sigmoid(x) / sqrt(mean_yxg(x^2) + eps) * scale + bias."""
    gated = x * jax.nn.sigmoid(x)
    return _finish(gated / _by_group(x, groups, _mean_square, epsilon), scale, bias)

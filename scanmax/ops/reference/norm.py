"""Normalisation, as its equations."""

import jax
import jax.numpy as jnp
from jax import lax


def _affine(y, scale, bias):
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def layer_norm(x, scale=None, bias=None, *, epsilon=1e-6):
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias over the last axis."""
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return _affine((x - mean) / jnp.sqrt(variance + epsilon), scale, bias)


def masked_layer_norm(x, active, scale=None, bias=None, *, epsilon=1e-6):
    """The layer norm of the first `active` channels, and zeros behind them."""
    counts = jnp.broadcast_to(active, x.shape[:-1])
    rows = []
    for row, count in zip(x.reshape(-1, x.shape[-1]), counts.reshape(-1).tolist()):
        own = [None if vector is None else vector[:count] for vector in (scale, bias)]
        y = layer_norm(row[:count], *own, epsilon=epsilon)
        rows.append(jnp.pad(y, (0, len(row) - count)))
    return jnp.stack(rows).reshape(x.shape) if rows else x


def rms_norm(x, scale=None, *, epsilon=1e-6):
    """y = x / sqrt(mean(x^2) + epsilon) * scale over the last axis."""
    return _affine(x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon), scale, None)


def gated_rms_norm(x, gate, scale=None, *, epsilon=1e-6, groups=1, norm_before_gate=False):
    """y = rms(x * silu(gate)) * scale, or rms(x) * scale * silu(gate), rms group by group."""

    def rms(x):
        slices = jnp.split(x, groups, axis=-1)
        return _affine(
            jnp.concatenate([rms_norm(part, epsilon=epsilon) for part in slices], -1), scale, None
        )

    gate = gate * jax.nn.sigmoid(gate)
    return rms(x) * gate if norm_before_gate else rms(x * gate)


def group_norm(x, scale=None, bias=None, *, groups, axes=(-3, -2), epsilon=1e-5):
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias over `axes` and each channel group."""
    axes = (*axes, -1)
    slices = [
        (part - jnp.mean(part, axes, keepdims=True))
        / jnp.sqrt(jnp.var(part, axes, keepdims=True) + epsilon)
        for part in jnp.split(x, groups, axis=-1)
    ]
    return _affine(jnp.concatenate(slices, -1), scale, bias)


def batch_statistics(x, where=None):
    """mean = sum(x) / n, variance = sum((x - mean)^2) / n over every axis but the last."""
    x = lax.collapse(x, 0, -1)
    where = jnp.ones(len(x), bool) if where is None else where.reshape(-1)
    count = jnp.maximum(jnp.sum(where), 1).astype(x.dtype)
    mean = jnp.sum(x, 0, where=where[:, None]) / count
    return mean, jnp.sum((x - mean[None]) ** 2, 0, where=where[:, None]) / count


def batch_norm(x, mean, variance, scale=None, bias=None, *, epsilon=1e-5):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + bias."""
    mean, variance = jnp.broadcast_to(mean, x.shape), jnp.broadcast_to(variance, x.shape)
    return _affine((x - mean) / jnp.sqrt(variance + epsilon), scale, bias)


def instance_batch_norm(x, mean, variance, scale=None, bias=None, *, groups=None, epsilon=1e-5):
    """Instance norm of the first channels, batch norm of as many last ones as mean has.

    With groups those of even number are the batch's, those of odd number the image's own.
    """
    channels = x.shape[-1]
    if groups is None:
        is_own = [channel < channels - len(mean) for channel in range(channels)]
    else:
        is_own = [channel // (channels // groups) % 2 == 1 for channel in range(channels)]
    normed, told = [], 0
    for channel, own in enumerate(is_own):
        part = x[..., channel, None]
        if own:
            centred = part - jnp.mean(part, (-3, -2), keepdims=True)
            part = centred / jnp.sqrt(jnp.var(part, (-3, -2), keepdims=True) + epsilon)
        else:
            given = mean[told : told + 1], variance[told : told + 1]
            part, told = batch_norm(part, *given, epsilon=epsilon), told + 1
        normed.append(part)
    return _affine(jnp.concatenate(normed, -1), scale, bias)


def global_response_norm(x, scale=None, bias=None, *, epsilon=1e-6):
    """y = x + scale * x * g_c / (mean_c(g) + epsilon) + bias, g_c = sqrt(sum_yx x_c^2)."""
    norms = jnp.sqrt(jnp.sum(x**2, (-3, -2), keepdims=True))
    return x + _affine(x * (norms / (jnp.mean(norms, -1, keepdims=True) + epsilon)), scale, bias)

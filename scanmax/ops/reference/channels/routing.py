"""Noisy gates, loads and their losses, as their equations."""

import math

import jax
import jax.numpy as jnp


def _size(noise_logits, epsilon):
    return jnp.log(1 + jnp.exp(noise_logits)) + epsilon


def noisy_logits(logits, noise_logits, noise, *, epsilon=0.01):
    """H = logits + noise (softplus(noise_logits) + epsilon)."""
    return logits + noise * _size(noise_logits, epsilon)


def expert_load(logits, noise_logits, noise, *, top_k, epsilon=0.01):
    """P_ti = Phi((logits_ti - kth_excluding(H_t, k, i)) / size_ti)."""
    noisy = noisy_logits(logits, noise_logits, noise, epsilon=epsilon)
    experts, chances = logits.shape[-1], []
    if top_k == experts:
        return jnp.ones_like(logits)
    for i in range(experts):
        others = jnp.concatenate([noisy[..., :i], noisy[..., i + 1 :]], -1)
        bound = jnp.sort(others, -1)[..., experts - 1 - top_k]
        z = (logits[..., i] - bound) / _size(noise_logits[..., i], epsilon)
        chances.append((1 + jax.lax.erf(z / math.sqrt(2))) / 2)
    return jnp.stack(chances, -1)


def squared_variation(x, *, epsilon=1e-10):
    """y = mean_e (x_e - m)^2 / (m^2 + epsilon)."""
    mean = jnp.sum(x, -1) / x.shape[-1]
    square = sum((x[..., e] - mean) ** 2 for e in range(x.shape[-1])) / x.shape[-1]
    return square / (mean**2 + epsilon)


def entropy_balance(logits):
    """y = sum_e p_e log p_e, p = mean_t softmax(logits)_t."""
    p = jax.nn.softmax(logits, -1).reshape(-1, logits.shape[-1])
    p = jnp.sum(p, 0) / len(p)
    return jnp.sum(p * jnp.log(p))

"""SpaRTAN's waves with complex numbers."""

import jax
import jax.numpy as jnp


def wave_aggregation(x, phase, amplitude, rotation):
    """The largest channel's phase and amplitude are multiplied apart from the others."""
    largest = jax.nn.one_hot(jnp.argmax(x, -1), phase.shape[-1], dtype=phase.dtype)
    top = jnp.sum(phase * largest, -1) * jnp.sum(amplitude * largest, -1)
    f = phase * amplitude + top[..., None]
    weight = jax.lax.complex(rotation[:, 0], rotation[:, 1])
    pairs = jax.lax.complex(f[..., 0::2], f[..., 1::2])
    y = pairs * jnp.broadcast_to(weight, pairs.shape)
    return jnp.stack([y.real, y.imag], -1).reshape(phase.shape)

"""Mixing of tokens by the Fourier transform, as its matrix of cosines."""

import math

import jax.numpy as jnp
import numpy as np


def fourier_token_mixing(x, *, scale=None):
    """y_td = scale sum_se cos(2 pi (t s / T + d e / D)) x_se."""
    T, D = x.shape[-2:]
    t, d = np.arange(T), np.arange(D)
    phase = (t[:, None] * t / T)[:, None, :, None] + (d[:, None] * d / D)[None, :, None]
    matrix = jnp.asarray(np.cos(2 * np.pi * phase), x.dtype)
    scale = 1 / math.sqrt(T * D) if scale is None else scale
    return scale * jnp.einsum("tdse,...se->...td", matrix, x)

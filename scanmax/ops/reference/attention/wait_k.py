"""Wait-k, row by row and step by step."""

import itertools

import jax.numpy as jnp
import numpy as np


def wait_k_mask(k, source_lengths=None, *, length, source_length):
    """mask_tj = j <= min(k + t - 1, |x|)."""
    k = np.asarray(k)
    lengths = np.full(k.shape, source_length) if source_lengths is None else source_lengths
    mask = np.zeros((*k.shape, 1, length, source_length), bool)
    for row in itertools.product(*map(range, k.shape)):
        for t in range(1, length + 1):
            z = min(int(k[row]) + t - 1, int(np.asarray(lengths)[row]))
            for j in range(1, source_length + 1):
                mask[(*row, 0, t - 1, j - 1)] = j <= z
    return jnp.asarray(mask)


def average_lagging(read, source_lengths, target_lengths):
    """1 / tau sum_(t <= tau) z_t - (t - 1) |x| / |y|, tau the first t with z_t = |x|."""
    read, source, target = map(np.asarray, (read, source_lengths, target_lengths))
    lags = np.zeros(source.shape)
    for row in itertools.product(*map(range, source.shape)):
        total, x, y = 0.0, int(source[row]), int(target[row])
        for t in range(1, y + 1):
            z = int(read[(*row, t - 1)])
            total += z - (t - 1) * x / y
            if z >= x:
                break
        lags[row] = total / t
    return jnp.asarray(lags)

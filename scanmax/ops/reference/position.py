"""Positions, as their equations."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _pairs(width, layout):
    """The two feature indices of each pair."""
    half = np.arange(width // 2)
    return (half, half + width // 2) if layout == "half" else (2 * half, 2 * half + 1)


def rotary(x, positions=None, *, base=10000.0, layout="half", endpoint=False, rotary_dim=None):
    """Multiplies each pair, as a complex number, by exp(i * position * base^(-2i / K))."""
    x = jnp.asarray(x)
    width = x.shape[-1] if rotary_dim is None else rotary_dim
    a, b = _pairs(width, layout)
    positions = jnp.arange(x.shape[-3]) if positions is None else positions
    last = max(width - 2, 1) if endpoint else width
    frequencies = jnp.asarray(base ** (-np.arange(0, width, 2) / last), x.dtype)
    angles = jnp.einsum("...t,k->...tk", positions.astype(x.dtype), frequencies)
    angles = jnp.broadcast_to(angles[..., None, :], x[..., a].shape)
    z = jax.lax.complex(x[..., a], x[..., b]) * jax.lax.complex(jnp.cos(angles), jnp.sin(angles))
    return x.at[..., a].set(z.real).at[..., b].set(z.imag)


def rotary_2d(x, *, grid, base=10000.0, layout="half", endpoint=False, prefix_tokens=0):
    """`rotary` of the first half of the features by row and of the second half by column."""
    if endpoint:
        # base^(-i / (n - 1)) for the n = K / 4 pairs of a half
        n = x.shape[-1] // 4
        base = base ** (n / max(n - 1, 1))
    prefix, x = jnp.split(x, [prefix_tokens], axis=-3)
    by_row, by_column = jnp.split(x, 2, axis=-1)
    rows, columns = (jnp.asarray(axis.ravel()) for axis in np.indices(grid))
    by_row = rotary(by_row, rows, base=base, layout=layout)
    by_column = rotary(by_column, columns, base=base, layout=layout)
    return jnp.concatenate([prefix, jnp.concatenate([by_row, by_column], -1)], -3)


def sincos_1d(length, dim, *, base=10000.0, layout="half", dtype=jnp.float32):
    """table[t, a_i] = sin(t base^(-2i / D)), table[t, b_i] = cos(t base^(-2i / D))."""
    table = np.zeros((length, dim))
    for t in range(length):
        for i, (a, b) in enumerate(zip(*_pairs(dim, layout))):
            angle = t / base ** (2 * i / dim)
            table[t, a], table[t, b] = np.sin(angle), np.cos(angle)
    return jnp.asarray(table, dtype)


def sincos_2d(grid, dim, *, base=10000.0, endpoint=False, dtype=jnp.float32):
    """[sin(x w), cos(x w), sin(y w), cos(y w)], w_i = base^(-i / n), n = D/4 or D/4 - 1."""
    quarter = dim // 4
    w = np.array([base ** (-i / max(quarter - endpoint, 1)) for i in range(quarter)])
    rows = [
        np.concatenate([np.sin(x * w), np.cos(x * w), np.sin(y * w), np.cos(y * w)])
        for y in range(grid[0])
        for x in range(grid[1])
    ]
    return jnp.asarray(np.stack(rows), dtype)


def fourier_positions(grid, dim, *, base=10000.0, epsilon=1e-6, dtype=jnp.float32):
    """sin and cos of 2 pi (place + 1) / (side + epsilon) w_i in turn, rows before columns."""
    quarter = dim // 4
    table = np.zeros((grid[0] * grid[1], dim))
    for y in range(grid[0]):
        for x in range(grid[1]):
            for axis, (place, side) in enumerate(((y, grid[0]), (x, grid[1]))):
                for i in range(quarter):
                    angle = 2 * np.pi * (place + 1) / (side + epsilon) / base ** (i / quarter)
                    at = axis * dim // 2 + 2 * i
                    table[y * grid[1] + x, at : at + 2] = np.sin(angle), np.cos(angle)
    return jnp.asarray(table, dtype)


def _kernel(distance, method):
    """The triangle, or Keys' cubic with a = -1/2."""
    d = abs(distance)
    if method == "linear":
        return max(0.0, 1 - d)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def _weights(size, new_size, method):
    """[new_size, size]: row i weighs the samples around (i + 1/2) * size / new_size - 1/2."""
    stretch = max(size / new_size, 1.0)
    centres = [(i + 0.5) * size / new_size - 0.5 for i in range(new_size)]
    weights = np.array([[_kernel((j - c) / stretch, method) for j in range(size)] for c in centres])
    return weights / weights.sum(1, keepdims=True)


def resample_positions(table, grid, new_grid, *, prefix_tokens=0, method="cubic"):
    """new[u, v] = sum_yx weights[u, y] weights[v, x] old[y, x]; prefix rows stay."""
    prefix, maps = jnp.split(table, [prefix_tokens], axis=-2)
    maps = maps.reshape(*table.shape[:-2], *grid, table.shape[-1])
    rows, columns = (
        jnp.asarray(_weights(size, new, method), table.dtype) for size, new in zip(grid, new_grid)
    )
    maps = jnp.einsum("uy,vx,...yxd->...uvd", rows, columns, maps)
    return jnp.concatenate([prefix, lax.collapse(maps, -3, -1)], -2)

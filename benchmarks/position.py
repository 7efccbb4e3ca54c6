"""Rotary positions against their equations in plain JAX and torch."""

import functools

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _angles(positions, width):
    return positions[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)


def _turned(x, cos, sin):
    """The halves of x [B, T, H, K] turned as transformers does it."""
    first, second = jnp.split(x, 2, -1)
    return x * cos + jnp.concatenate([-second, first], -1) * sin


def _rotary(x, angles):
    table = np.concatenate([angles, angles], -1)[None, :, None]
    cos, sin = np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)
    return _turned(x, cos, sin)


def _rotary_torch(x, angles):
    import torch

    table = torch.from_numpy(np.concatenate([angles, angles], -1)[None, :, None])
    cos, sin = table.cos().float(), table.sin().float()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _rotary_2d(x, side):
    rows, columns = (place.reshape(-1) for place in np.indices((side, side)))
    width = x.shape[-1] // 2
    halves = zip(jnp.split(x, 2, -1), (rows, columns))
    return jnp.concatenate([_rotary(half, _angles(place, width)) for half, place in halves], -1)


@benchmark("rotary")
def rotary(quick: bool):
    """ops.rotary and rotary_2d against their equations in plain JAX and torch, float32."""
    for side, batch, heads in [(8, 1, 2)] if quick else [(32, 4, 8), (64, 1, 8)]:
        T = side * side
        x = normal((batch, T, heads, 64))
        angles = _angles(np.arange(T), 64)
        title = f"{batch} x {T}, {heads} x 64"
        yield from op_rows(
            f"rotary, {title}",
            ops.rotary,
            x,
            jax_peers={"plain JAX": functools.partial(_rotary, angles=angles)},
            torch_peers={"torch": functools.partial(_rotary_torch, angles=angles)},
        )
        yield from op_rows(
            f"rotary_2d, {title}",
            functools.partial(ops.rotary_2d, grid=(side, side)),
            x,
            jax_peers={"plain JAX": functools.partial(_rotary_2d, side=side)},
        )

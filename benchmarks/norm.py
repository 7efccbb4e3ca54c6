"""Normalisations against torch, timm's plain JAX equations, float32."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return scale * centred * jax.lax.rsqrt(jnp.square(centred).mean(-1)[..., None] + 1e-6) + bias


def _rms_norm(x, scale):
    return scale * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


@benchmark("norm")
def norm(quick: bool):
    """Layer and RMS norm over channels, group norm of maps: plain JAX and torch, float32."""
    from torch.nn.functional import group_norm, layer_norm, rms_norm

    for tokens, width in ((64, 32),) if quick else ((1576, 384), (8192, 768)):
        x, scale, bias = normal((tokens, width), (width,), (width,))
        title = f"{tokens} x {width}"
        yield from op_rows(
            f"layer_norm, {title}",
            ops.layer_norm,
            [x, scale, bias],
            jax_peers={"plain JAX": _layer_norm},
            torch_peers={"torch": lambda x, w, b: layer_norm(x, w.shape, w, b, 1e-6)},
        )
        yield from op_rows(
            f"rms_norm, {title}",
            ops.rms_norm,
            [x, scale],
            jax_peers={"plain JAX": _rms_norm},
            torch_peers={"torch": lambda x, w: rms_norm(x, w.shape, w, 1e-6)},
        )
    for batch, side, width in ((2, 4, 32),) if quick else ((8, 28, 192), (2, 56, 96)):
        x, scale, bias = normal((batch, side, side, width), (width,), (width,))

        def in_torch(x, w, b):
            return group_norm(x.permute(0, 3, 1, 2), 16, w, b, 1e-5).permute(0, 2, 3, 1)

        ours = functools.partial(ops.group_norm, groups=16)
        title = f"group_norm, 16 groups, {batch} x {side} x {side} x {width}"
        yield from op_rows(title, ours, [x, scale, bias], torch_peers={"torch": in_torch})

"""Normalisations against torch, timm's plain JAX equations, float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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


def _evonorm_s0(x, v, scale, bias):
    groups = x.reshape(x.shape[0], -1, 32, x.shape[-1] // 32)
    deviation = groups.var((1, 3), unbiased=False, keepdim=True).add(1e-5).sqrt()
    y = (x * (x * v).sigmoid()).reshape(groups.shape) / deviation
    return y.reshape(x.shape) * scale + bias


def _evonorm_s(x, scale, bias, *, centred):
    groups = x.reshape(x.shape[0], -1, 32, x.shape[-1] // 32)
    size = (
        groups.var((1, 3), unbiased=False, keepdim=True)
        if centred
        else (groups**2).mean((1, 3), True)
    )
    y = (x * x.sigmoid()).reshape(groups.shape) / (size + 1e-5).sqrt()
    return y.reshape(x.shape) * scale + bias


def _evonorm_b(x, variance, *vectors, kind):
    *v, scale, bias = vectors
    size = ((x**2).mean((1, 2), True) + 1e-5).sqrt()
    if kind == "b0":
        other = v[0] * x + (x.var((1, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()
    else:
        other = (x + 1) * size if kind == "b1" else size - x
    return x / (variance + 1e-5).sqrt().max(other) * scale + bias


def _instance_batch(x, mean, variance, scale, bias):
    import torch

    own, rest = x.permute(0, 3, 1, 2).chunk(2, 1)
    (gain, own_bias), (rest_gain, rest_bias) = zip(scale.chunk(2), bias.chunk(2))
    own = torch.nn.functional.instance_norm(own, weight=gain, bias=own_bias)
    rest = (rest - mean[:, None, None]) * (variance + 1e-5).rsqrt()[:, None, None]
    rest = rest * rest_gain[:, None, None] + rest_bias[:, None, None]
    return torch.cat([own, rest], 1).permute(0, 2, 3, 1)


def _turns(x, mean, variance):
    import torch

    y, own = [], mean.shape[0] // 2
    for group, part in enumerate(x.permute(0, 3, 1, 2).chunk(4, 1)):
        if group % 2:
            y.append(torch.nn.functional.instance_norm(part))
        else:
            here = slice(group // 2 * own, (group // 2 + 1) * own)
            centred = part - mean[here, None, None]
            y.append(centred * (variance[here, None, None] + 1e-5).rsqrt())
    return torch.cat(y, 1).permute(0, 2, 3, 1)


def _response(x, scale, bias):
    norms = x.norm(p=2, dim=(1, 2), keepdim=True)
    return x + scale * (x * norms / (norms.mean(-1, keepdim=True) + 1e-6)) + bias


@benchmark("map_norm")
def map_norm(quick: bool):
    """EvoNorm, instance-batch and response norm of maps: timm's sums in torch, float32."""
    s1, s2 = (functools.partial(_evonorm_s, centred=centred) for centred in (True, False))
    b0, b1, b2 = (functools.partial(_evonorm_b, kind=kind) for kind in ("b0", "b1", "b2"))
    for batch, side, width in ((2, 4, 32),) if quick else ((8, 28, 192), (2, 56, 96)):
        x, v, scale, bias = normal((batch, side, side, width), (width,), (width,), (width,))
        mean, variance = v[: width // 2], np.square(v[width // 2 :]) + 0.5
        whole = np.square(v) + 0.5
        title = f"{batch} x {side} x {side} x {width}"
        for name, op, arrays, peer in (
            ("evonorm_s0, 32 groups", ops.evonorm_s0, [x, v, scale, bias], _evonorm_s0),
            ("evonorm_s1, 32 groups", ops.evonorm_s1, [x, scale, bias], s1),
            ("evonorm_s2, 32 groups", ops.evonorm_s2, [x, scale, bias], s2),
            ("evonorm_b0", ops.evonorm_b0, [x, whole, v, scale, bias], b0),
            ("evonorm_b1", ops.evonorm_b1, [x, whole, scale, bias], b1),
            ("evonorm_b2", ops.evonorm_b2, [x, whole, scale, bias], b2),
            (
                "instance_batch_norm",
                ops.instance_batch_norm,
                [x, mean, variance, scale, bias],
                _instance_batch,
            ),
            (
                "instance_batch_norm, 4 groups by turns",
                functools.partial(ops.instance_batch_norm, groups=4),
                [x, mean, variance],
                _turns,
            ),
            ("global_response_norm", ops.global_response_norm, [x, scale, bias], _response),
        ):
            yield from op_rows(f"{name}, {title}", op, arrays, torch_peers={"timm's sums": peer})

"""HyperZZW, channel by channel."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, align


def hyper_zzw(z, kernel, fast=None, *, interaction="matrix", precision=None):
    """(z_c * w_c) f_c, as a product of matrices or of numbers."""
    del precision
    fast = z if fast is None else fast
    dtype = accumulator_dtype(z, kernel, fast)
    context, fast = z.astype(dtype) * align(kernel.astype(dtype), z), fast.astype(dtype)
    if interaction == "elementwise":
        return (context * fast).astype(z.dtype)
    # zeros make the maps square
    *batch, height, width, dim = z.shape
    side = max(height, width)
    zeros = [(0, 0)] * len(batch) + [(0, side - height), (0, side - width), (0, 0)]
    context, fast = jnp.pad(context, zeros), jnp.pad(fast, zeros)
    channels = [jnp.matmul(context[..., c], fast[..., c]) for c in range(dim)]
    return jnp.stack(channels, -1)[..., :height, :width, :].astype(z.dtype)


def hyper_kernel(
    filters,
    weights,
    bias,
    offset=None,
    context=None,
    *,
    renormalized=0.1,
    detached=True,
    precision=None,
):
    """u_l = g_l (W_l h + b_l) + p, and with a context h_l = (u_l + r u_l / |u_l|) c_l."""
    del precision
    h = filters[0]
    for layer in range(len(weights)):
        mixed = jnp.einsum("yxi,io->yxo", h, weights[layer])
        u = filters[layer + 1] * (mixed + jnp.broadcast_to(bias[layer], mixed.shape))
        u = u if offset is None else u + jnp.broadcast_to(offset[..., None], u.shape)
        if context is None:
            h = u
            continue
        units = [u[..., unit] for unit in range(u.shape[-1])]
        direction = jnp.stack([unit / jnp.linalg.norm(unit) for unit in units], -1)
        h = (jax.lax.stop_gradient(u) if detached else u) + renormalized * direction
        h = h * context[layer]
    return h

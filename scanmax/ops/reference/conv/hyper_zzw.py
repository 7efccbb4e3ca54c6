"""HyperZZW, channel by channel."""

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

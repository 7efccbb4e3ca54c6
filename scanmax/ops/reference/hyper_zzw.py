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
    channels = [jnp.matmul(context[..., c], fast[..., c]) for c in range(z.shape[-1])]
    return jnp.stack(channels, -1).astype(z.dtype)

"""Encodings of what a hypernetwork is told."""

import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype


def mip_encode(x, *, encoding="cos|sin"):
    """Number by number, the first halves of all and then the second."""
    if encoding is None:
        return x
    wide = x.astype(accumulator_dtype(x))
    first, second = [], []
    for i in range(x.shape[-1]):
        z = wide[..., i]
        if encoding == "cos|sin":
            first.append(jnp.cos(jnp.pi * z / 2))
            second.append(jnp.sin(jnp.pi * z / 2))
        else:
            first.append(z)
            second.append(1 - z)
    return jnp.stack(first + second, -1).astype(x.dtype)

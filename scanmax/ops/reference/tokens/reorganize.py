"""Token reorganisation, token by token."""

import functools
import math

import jax
import jax.numpy as jnp


def token_reorganize(x, class_attention, *, keep_rate, fuse=True, normalize=False, prefix_tokens=1):
    """Sorts the tokens by attention, keeps the first, sums up the rest."""
    if x.ndim > 2:
        options = {"keep_rate": keep_rate, "fuse": fuse, "normalize": normalize}
        options["prefix_tokens"] = prefix_tokens
        return jax.vmap(functools.partial(token_reorganize, **options))(x, class_attention)
    tokens = x.shape[0] - prefix_tokens
    keep = math.ceil(keep_rate * tokens)
    if keep == tokens:
        return x
    attention = jnp.mean(class_attention, axis=0)
    order = prefix_tokens + jnp.argsort(-attention[prefix_tokens:])
    y = [*x[:prefix_tokens], *(x[i] for i in order[:keep])]
    if fuse:
        fused = sum(attention[i] * x[i] for i in order[keep:])
        y.append(fused / sum(attention[i] for i in order[keep:]) if normalize else fused)
    return jnp.stack(y)

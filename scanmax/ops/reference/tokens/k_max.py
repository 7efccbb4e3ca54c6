"""k-max pooling by ranks."""

import jax.numpy as jnp


def k_max_pool(x, k, *, where=None, count=None):
    """A value is kept when fewer than k (or count) of its channel are larger, or equal before it.

    Row i of the result is the value before which i others are kept.
    """
    T = x.shape[-2]
    where = jnp.ones(x.shape[:-1], bool) if where is None else where
    count = jnp.full(x.shape[:-2], k) if count is None else count
    value, other = x[..., :, None, :], x[..., None, :, :]
    before = jnp.tril(jnp.ones((*x.shape[:-2], T, T), bool), -1)[..., None]
    ahead = (other > value) | ((other == value) & before)
    rank = (ahead & where[..., None, :, None]).sum(-2)
    kept = where[..., None] & (rank < jnp.minimum(count, k)[..., None, None])
    place = jnp.cumsum(kept, -2) - 1
    rows = [jnp.where(kept & (place == i), x, 0).sum(-2) for i in range(k)]
    return jnp.stack(rows, axis=-2)

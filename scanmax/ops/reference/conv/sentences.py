"""Wide convolution, folding and pooling of the k largest, by their definitions."""

import jax.numpy as jnp


def wide_conv1d(x, kernel, *, precision=None):
    """y_t,d = sum_w x_(t + w - W + 1),d kernel_w,d."""
    length, width = x.shape[-3], len(kernel)
    y = []
    for t in range(length + width - 1):
        total = jnp.zeros((*x.shape[:-3], x.shape[-2], kernel.shape[-1]), x.dtype)
        for w in range(width):
            if 0 <= t + w - width + 1 < length:
                token = x[..., t + w - width + 1, :, :]
                total = total + jnp.einsum("...di,dio->...do", token, kernel[w])
        y.append(total)
    return jnp.stack(y, -3)


def fold_rows(x):
    """y_d = x_2d + x_(2d+1)."""
    return x[..., 0::2, :] + x[..., 1::2, :]


def k_max_pool(x, k=None, where=None, *, size):
    """y_j = the j-th token, in their order, of those that fewer than k others come before."""
    length = x.shape[-2]
    k = jnp.full(x.shape[:-2], size) if k is None else jnp.minimum(k, size)
    where = jnp.ones(x.shape[:-1], bool) if where is None else where
    here, other = x[..., :, None, :], x[..., None, :, :]  # [*B, T, 1 or T, C]
    earlier = jnp.arange(length)[None] < jnp.arange(length)[:, None]
    before = (other > here) | (
        (other == here) & earlier.reshape((1,) * (x.ndim - 2) + (length, length, 1))
    )
    rank = (before & where[..., None, :, None]).sum(-2)
    taken = where[..., None] & (rank < k[..., None, None])
    place = jnp.where(taken, jnp.cumsum(taken, -2) - 1, -1)
    return jnp.stack([jnp.where(place == j, x, 0).sum(-2) for j in range(size)], -2)


def dynamic_k(lengths, *, layer, layers, top):
    """k = max(top, ceil((L - l) s / L))."""
    return jnp.maximum(top, jnp.ceil((layers - layer) * lengths / layers)).astype(lengths.dtype)

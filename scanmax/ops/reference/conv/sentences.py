"""Wide convolution, folding and how many values are kept, by their definitions."""

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


def dynamic_k(lengths, *, layer, layers, top):
    """k = max(top, ceil((L - l) s / L))."""
    return jnp.maximum(top, jnp.ceil((layers - layer) * lengths / layers)).astype(lengths.dtype)

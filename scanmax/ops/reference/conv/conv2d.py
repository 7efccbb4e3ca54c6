"""Convolutions, as their sums over taps."""

import jax.numpy as jnp
import numpy as np


def _both(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _pad(x, window, stride, dilation, padding):
    """x with its border of zeros; SAME gives ceil(size / stride) outputs."""
    pads = []
    for axis in range(2):
        size, reach = x.shape[axis - 3], (window[axis] - 1) * dilation[axis] + 1
        if padding == "SAME":
            outputs = int(np.ceil(size / stride[axis]))
            total = max((outputs - 1) * stride[axis] + reach - size, 0)
            pads.append((total // 2, total - total // 2))
        else:
            pads.append(_both(0 if padding == "VALID" else _both(padding)[axis]))
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [*pads, (0, 0)])


def conv2d(x, kernel, *, stride=1, padding="SAME", dilation=1, groups=1, precision=None):
    """y[u, v, o] = sum_ijc x[u s + i d, v s + j d, c] kernel[i, j, c, o], group by group."""
    stride, dilation, window = _both(stride), _both(dilation), kernel.shape[:2]
    x = _pad(x, window, stride, dilation, padding)
    rows, columns = (
        (x.shape[axis - 3] - (window[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1
        for axis in range(2)
    )
    parts = []
    for x_group, kernel_group in zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1)):
        y = 0.0
        for i in range(window[0]):
            for j in range(window[1]):
                u = i * dilation[0] + stride[0] * np.arange(rows)
                v = j * dilation[1] + stride[1] * np.arange(columns)
                tap = x_group[..., u[:, None], v[None, :], :]
                y = y + jnp.einsum("...c,co->...o", tap, kernel_group[i, j], precision=precision)
        parts.append(y)
    return jnp.concatenate(parts, -1)


def depthwise_conv2d(x, kernel, *, stride=1, padding="SAME", dilation=1, precision=None):
    """y[u, v, c] = sum_ij x[u s + i d, v s + j d, c] kernel[i, j, 0, c]."""
    return conv2d(
        x,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=x.shape[-1],
        precision=precision,
    )


def patchify(x, patch_size):
    """y[u, v, (i, j, c)] = x[u p + i, v q + j, c]."""
    p, q = _both(patch_size)
    taps = [x[..., i::p, j::q, :] for i in range(p) for j in range(q)]
    return jnp.concatenate(taps, -1)

"""Convolutions over any number of axes, as their sums over taps."""

import itertools

import jax.numpy as jnp
import numpy as np


def _seen(size, taps, stride, padding, dilation):
    """The places [taps, outputs] of one axis that each tap meets; `size` is beyond the edge."""
    reach = (taps - 1) * dilation + 1
    if padding == "SAME":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + reach - size, 0) // 2
    else:
        before, after = (padding, padding) if isinstance(padding, int) else padding
        outputs = (size + before + after - reach) // stride + 1
    places = dilation * np.arange(taps)[:, None] + stride * np.arange(outputs) - before
    return np.where((places < 0) | (places >= size), size, places)


def conv_over_axes(x, kernel, *, stride=1, padding="SAME", dilation=1, groups=1, precision=None):
    """y[u, o] = sum_ic x[u s + i d, c] kernel[i, c, o], where u and i number several axes."""
    axes = kernel.ndim - 2
    padding = 0 if padding == "VALID" else padding
    each = [[z] * axes if isinstance(z, int | str) else z for z in (stride, padding, dilation)]
    places = [
        _seen(x.shape[axis - axes - 1], kernel.shape[axis], *(z[axis] for z in each))
        for axis in range(axes)
    ]
    parts = []
    for x_group, kernel_group in zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1)):
        y = 0.0
        for taps in itertools.product(*map(range, kernel.shape[:axes])):
            seen = x_group
            for axis, tap in enumerate(taps):
                options = {"axis": axis - axes - 1, "mode": "fill", "fill_value": 0}
                seen = jnp.take(seen, places[axis][tap], **options)
            y = y + jnp.einsum("...c,co->...o", seen, kernel_group[taps], precision=precision)
        parts.append(y)
    return jnp.concatenate(parts, -1)

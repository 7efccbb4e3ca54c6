"""Two-dimensional convolutions, each lowered to whatever is fastest for its backend and shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_implementation, check_rank, op, require

Pair = int | tuple[int, int]
Padding = str | int | tuple


def _pair(name: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    require(
        len(pair) == 2 and all(isinstance(side, int) and side >= 1 for side in pair),
        f"{name}={value!r}: expected a positive integer or a pair of them.",
    )
    return pair


def _pads(padding: Padding, size, kernel, stride, dilation) -> tuple[tuple[int, int], ...]:
    """The rows and columns of zeros before and after the map, per axis."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    if padding == "VALID":
        padding = 0
    if padding == "SAME":
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, stride, reach)]
        return tuple((t // 2, t - t // 2) for t in total)
    sides = (padding, padding) if isinstance(padding, int) else padding
    require(
        isinstance(sides, tuple) and len(sides) == 2,
        f'padding={padding!r}: expected "SAME", "VALID", an integer or a pair.',
    )
    pads = tuple((side, side) if isinstance(side, int) else tuple(side) for side in sides)
    require(
        all(len(pad) == 2 and min(pad) >= 0 for pad in pads),
        f"padding={padding!r}: expected (before, after) >= 0 for each axis.",
    )
    return pads


def _lax_conv(x, kernel, stride, pads, dilation, groups, precision):
    """x [B,Y,X,C] through XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def _shifted(x, kernel, stride, pads, dilation):
    """Depthwise: one multiply-add of the whole map per tap."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    outs = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:3], kernel.shape[:2], dilation, stride)
    ]
    total = None
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            start = (0, i * dilation[0], j * dilation[1], 0)
            span = [(n - 1) * s + 1 for n, s in zip(outs, stride)]
            limit = (x.shape[0], start[1] + span[0], start[2] + span[1], x.shape[3])
            tap = (
                jax.lax.slice(x, start, limit, (1, *stride, 1)) * kernel[i, j, 0][None, None, None]
            )
            total = tap if total is None else total + tap
    return total


@op("stride", "padding", "dilation", "groups", "precision", "implementation")
def conv2d(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx I O"],
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    precision=None,
    implementation=None,
) -> Float[Array, "*B Y2 X2 O"]:
    """Convolution."""
    check_rank(3, x=x)
    check_implementation("conv2d", implementation, ("xla",))
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    pads = _pads(padding, x.shape[-3:-1], kernel.shape[:2], stride, dilation)
    y = x.reshape(-1, *x.shape[-3:])
    y = _lax_conv(y, kernel, stride, pads, dilation, groups, precision)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@op("stride", "padding", "dilation", "precision", "implementation")
def depthwise_conv2d(
    x: Float[Array, "*B Y X C"],
    kernel: Float[Array, "ky kx 1 C"],
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    precision=None,
    implementation=None,
) -> Float[Array, "*B Y2 X2 C"]:
    """Depthwise convolution."""
    check_rank(3, x=x)
    check_implementation("depthwise_conv2d", implementation, ("xla",))
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    pads = _pads(padding, x.shape[-3:-1], kernel.shape[:2], stride, dilation)
    y = x.reshape(-1, *x.shape[-3:])
    y = _shifted(y, kernel, stride, pads, dilation)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@op("patch_size")
def patchify(x: Float[Array, "*B Y X C"], patch_size: Pair) -> Float[Array, "*B Y2 X2 D"]:
    """Cuts a map into patches: [*B, Y/p, X/q, p*q*C]."""
    check_rank(3, x=x)
    p, q = _pair("patch_size", patch_size)
    *batch, height, width, channels = x.shape
    require(
        height % p == 0 and width % q == 0,
        f"x has shape {x.shape}; patch_size={patch_size} must divide its rows and columns.",
    )
    y = x.reshape(*batch, height // p, p, width // q, q, channels)
    return jnp.swapaxes(y, -4, -3).reshape(*batch, height // p, width // q, p * q * channels)

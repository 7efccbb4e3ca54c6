"""Depthwise convolution on CPUs by a kernel in C++ (`scanmax/ops/native/depthwise.cc`)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scanmax.ops import native
from scanmax.ops.contract import call_obstacles, platform

# Unasked, kernels of fewer taps stay with XLA: copying maps costs more than their sums.
FEWEST_TAPS = 25


def native_obstacles(x, kernel, stride, dilation, asked: bool) -> list[str]:
    """What keeps the kernel from this call; it is compiled where nothing else does."""
    if not asked and not native.is_unasked():
        return ["a call that does not ask for it, without SCANMAX_NATIVE=1"]
    if not asked and math.prod(kernel.shape[:2]) < FEWEST_TAPS:
        return [f"fewer than {FEWEST_TAPS} taps"]
    devices = jax.sharding.get_abstract_mesh().size
    found = [
        *([] if platform() == "cpu" else [f"the backend {platform()!r}"]),
        *call_obstacles(x, kernel, dtypes=("float32",)),
        *([] if stride == (1, 1) else [f"stride={stride}"]),
        *([] if dilation == (1, 1) else [f"dilation={dilation}"]),
        *([] if devices in (0, 1) else [f"a mesh of {devices} devices"]),
    ]
    if not found and (missing := native.obstacle()):
        found = [missing]
    return found


def _sums(x, kernel, top, left, size):
    """y[u, v] = sum_ij x[u + i - top, v + j - left] kernel[i, j], u and v below `size`."""
    shape = jax.ShapeDtypeStruct((len(x), *size, x.shape[-1]), x.dtype)
    call = jax.ffi.ffi_call("scanmax_depthwise", shape, vmap_method="sequential")
    return call(x, kernel, top=np.int64(top), left=np.int64(left))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def native_depthwise(x: Array, kernel: Array, pads) -> Array:
    """x [B, Y, X, C], kernel [ky, kx, C], pads ((top, bottom), (left, right)) -> [B, U, V, C]."""
    size = (n + sum(pad) - taps + 1 for n, pad, taps in zip(x.shape[1:3], pads, kernel.shape[:2]))
    return _sums(x, kernel, pads[0][0], pads[1][0], tuple(size))


def _forward(x, kernel, pads):
    return native_depthwise(x, kernel, pads), (x, kernel)


def _backward(pads, kept, dy):
    x, kernel = kept
    top, left = (taps - 1 - before for taps, (before, _) in zip(kernel.shape[:2], pads))
    dx = _sums(dy, jnp.flip(kernel, (0, 1)), top, left, x.shape[1:3])
    shape = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    call = jax.ffi.ffi_call("scanmax_depthwise_gradient", shape, vmap_method="sequential")
    return dx, call(x, dy, top=np.int64(pads[0][0]), left=np.int64(pads[1][0]))


native_depthwise.defvjp(_forward, _backward)

"""Softmax attention on CPUs by a kernel in C++ (`scanmax/ops/native/attention.cc`)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.ops import native
from scanmax.ops.attention.normalizer import Softmax, SoftmaxOne
from scanmax.ops.attention.pallas import reach
from scanmax.ops.contract import call_obstacles, over_mesh, platform


def native_obstacles(query, key, value, normalizer, window, asked):
    """What keeps the kernel from this call; it is compiled where nothing else does."""
    if not asked and not native.is_unasked():
        return ["a call that does not ask for it, without SCANMAX_NATIVE=1"]
    found = [
        *([] if platform() == "cpu" else [f"the backend {platform()!r}"]),
        *call_obstacles(query, key, value, dtypes=("float32",)),
        *([] if type(normalizer) in (Softmax, SoftmaxOne) else [f"normalizer={normalizer}"]),
    ]
    if not found and (missing := native.obstacle()):
        found = [missing]
    return found


def native_attention(normalizer, query, key, value, scale, window, segment_ids=None, visible=None):
    """Attention [*B, T, H, V] of checked arrays; `visible` [*B, S]: which keys may be read."""
    *batch, T, H, _ = query.shape
    S, null = key.shape[-3], normalizer.null_logit
    first, last = (
        jnp.broadcast_to(x, (*batch, T)).astype(jnp.int32) for x in reach(segment_ids, T, S, window)
    )
    visible = jnp.broadcast_to(True if visible is None else visible, (*batch, S))
    local = functools.partial(_attention, -math.inf if null is None else float(null))
    query = query * scale.astype(query.dtype)
    if jax.sharding.get_abstract_mesh().empty:
        return local(query, key, value, first, last, visible)

    def by_heads(query, key, value, *rows):
        turned = (jnp.moveaxis(x, 1, 2) for x in (query, key, value))
        return jnp.moveaxis(local(*turned, *rows), 1, 2)

    arrays = (x.reshape(-1, *x.shape[-3:]).swapaxes(1, 2) for x in (query, key, value))
    rows = [x.reshape(-1, x.shape[-1]) for x in (first, last, visible)]
    y = over_mesh(by_heads, list(arrays), rows)
    return y.swapaxes(1, 2).reshape(*batch, T, H, value.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(null, query, key, value, first, last, visible):
    return _forward(null, query, key, value, first, last, visible)[0]


def _forward(null, query, key, value, first, last, visible):
    """The output, and what the backward pass keeps: arrays, output and a number per row."""
    *batch, T, H, _ = query.shape
    y, sums = jax.ffi.ffi_call(
        "scanmax_attention",
        (
            jax.ShapeDtypeStruct((*batch, T, H, value.shape[-1]), query.dtype),
            jax.ShapeDtypeStruct((*batch, H, T), query.dtype),
        ),
        vmap_method="broadcast_all",
    )(query, key, value, first, last, visible, null=np.float32(null))
    return y, (query, key, value, first, last, visible, y, sums)


def _backward(null, kept, d_y):
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in kept[:3])
    call = jax.ffi.ffi_call("scanmax_attention_gradient", shapes, vmap_method="broadcast_all")
    return *call(*kept, d_y), None, None, None


_attention.defvjp(_forward, _backward)

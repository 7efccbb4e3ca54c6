"""Attention by cuDNN through jax.nn: where it serves, and the call."""

import jax
import jax.numpy as jnp

from scanmax.ops.attention.normalizer import Softmax
from scanmax.ops.contract import accumulator_dtype


def cudnn_obstacles(query, key, value, normalizer, window):
    """What about the arrays and the machine keeps cuDNN from serving this call.

    Masks and lengths are kept from it too: its fully masked rows are not zero.
    """
    dtype, width = query.dtype, query.shape[-1]
    half = dtype in (jnp.bfloat16, jnp.float16) and dtype == value.dtype
    backend = jax.default_backend()
    return [
        obstacle
        for is_there, obstacle in (
            (backend != "gpu", f"the backend {backend!r}"),
            (normalizer != Softmax(), f"normalizer={normalizer}"),
            (not half, f"dtype {dtype} (only bfloat16 and float16)"),
            (width != value.shape[-1], "values of another width than keys"),
            (width % 8 != 0 or width > 128, f"heads of width {width} (only 8, 16, ... 128)"),
            (query.shape[-3] != key.shape[-3], "T != S"),
            (window != (None, None) and window[1] != 0, "a window that looks ahead"),
        )
        if is_there
    ]


def cudnn_attention(query, key, value, scale, left, right):
    """Softmax attention, [*B, T, H, V]; scale None is K ** -0.5."""
    batch = query.shape[:-3]
    if scale is not None:
        # cuDNN's own scale is a constant; this one may be traced
        accumulator = accumulator_dtype(query)
        query = query.astype(accumulator) * jnp.asarray(scale, accumulator)
        query = query.astype(key.dtype)
    y = jax.nn.dot_product_attention(
        *(jax.lax.collapse(x, 0, -3) for x in (query, key, value)),
        scale=None if scale is None else 1.0,
        is_causal=right == 0,
        local_window_size=None if left is None else (left, 0),
        implementation="cudnn",
    )
    return y.reshape(*batch, *y.shape[1:])

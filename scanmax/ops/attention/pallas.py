"""Attention by kernels for TPUs: where they serve, and the call of JAX's splash attention.

Softmax goes by that one; scores that add up, of sigmoid and its like, by `sums_kernel`. Splash
attention keeps logits and weights of a block in the chip's own memory, forward and backward; what
stands in HBM are the arrays and one number per row. It is a part of JAX
(`jax.experimental.pallas.ops.tpu.splash_attention`), with a gradient of its own. It knows windows,
soft caps, segments and key heads that query heads share; all else is made of these here.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention.normalizer import Softmax, SoftmaxOne
from scanmax.ops.attention.sums_kernel import adds_up, sums_attention
from scanmax.ops.contract import accumulator_dtype, kernel_obstacles, over_mesh, platform
from scanmax.ops.segments import segment_starts

# Unasked, the kernel takes sequences from this length on; what is shorter fits XLA well.
LONG = 1024
# Blocks of the kernel. One is taken where it pads a sequence by an eighth at most; the last always.
BLOCKS = (512, 256, 128)


def pallas_obstacles(query, key, value, normalizer, window, interpreted):
    """What about arrays and machine keeps the kernel, `interpreted` on a CPU, from this call."""
    T, S, left = query.shape[-3], key.shape[-3], window[0]
    is_softmax = type(normalizer) in (Softmax, SoftmaxOne)
    beyond = left is not None and (T - 1 - left >= S or _padded(T) - 1 - left >= _padded(S))
    return [
        *kernel_obstacles(query, key, value, interpreted=interpreted),
        *(
            obstacle
            for is_there, obstacle in (
                (not is_softmax and not adds_up(normalizer), f"normalizer={normalizer}"),
                (query.dtype != value.dtype, f"values of {value.dtype}, queries of {query.dtype}"),
                (is_softmax and beyond, "a window that lies beyond the keys"),
            )
            if is_there
        ),
    ]


def unasked_obstacles(query, key, normalizer):
    """What keeps a kernel from serving a call that does not ask for it."""
    T, S, mesh = query.shape[-3], key.shape[-3], jax.sharding.get_abstract_mesh()
    # XLA cannot split a kernel: a program for several devices has to say how.
    unknown = mesh.empty and jax.device_count() > 1
    return [
        obstacle
        for is_there, obstacle in (
            (min(T, S) < LONG, f"fewer than {LONG} queries or keys"),
            (unknown, "several devices without jax.set_mesh"),
            # No TPU has timed the other kernel yet.
            (type(normalizer) not in (Softmax, SoftmaxOne), "a kernel that goes by name only"),
        )
        if is_there
    ]


def pallas_attention(
    normalizer, query, key, value, scale, window, cap, segment_ids=None, visible=None
):
    """Attention [*B, T, H, V] of checked arrays; `visible` [*B, S]: which keys may be read."""
    *batch, T, H, _ = query.shape
    S, right = key.shape[-3], window[1]
    if adds_up(normalizer):
        seen = jnp.broadcast_to(True if visible is None else visible, (*batch, S))
        counts = jnp.maximum(_keys_read(seen, segment_ids, T, window), 1)
        ids = _ids(batch, T, S, segment_ids, visible)
        return sums_attention(normalizer, query, key, value, scale, window, cap, counts, ids)
    accumulator = accumulator_dtype(query)
    # the kernel has no factor of its own
    query = (query.astype(accumulator) * scale.astype(accumulator)).astype(key.dtype)
    T_padded, S_padded = _padded(T), _padded(S)
    arrays = [
        _pad(jnp.moveaxis(x.reshape(math.prod(batch), *x.shape[-3:]), -3, -2), -2, length)
        for x, length in ((query, T_padded), (key, S_padded), (value, S_padded))
    ]
    rows_read, ids = None, []
    padding_seen = S_padded > S and (right is None or T - 1 + right >= S)
    if segment_ids is not None or visible is not None or padding_seen:
        if visible is not None:
            # the kernel divides by 0 or means all in rows that read nothing
            visible = jnp.broadcast_to(visible, (*batch, S))
            rows_read = _keys_read(visible, segment_ids, T, window) > 0
        query_ids, key_ids = _ids(batch, T, S, segment_ids, visible)
        ids = [
            _pad(query_ids.reshape(-1, T), -1, T_padded, 0),
            _pad(key_ids.reshape(-1, S), -1, S_padded, -1),
        ]
    local = functools.partial(_local, window, cap, normalizer.null_logit, platform() == "cpu")
    y = over_mesh(local, arrays, ids)
    y = jnp.moveaxis(y[..., :T, :], -3, -2).reshape(*batch, T, H, value.shape[-1])
    return y if rows_read is None else jnp.where(rows_read[..., None, None], y, jnp.zeros_like(y))


def _local(window, cap, null_logit, interpret, query, key, value, *ids):
    """The kernel on the arrays of one device, [B, H, T, K], with ids [B, T] and [B, S] or none."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    (H, T), S = query.shape[1:3], key.shape[2]
    if window == (None, None):
        mask = masks.FullMask((T, S))
    elif window == (None, 0):
        mask = masks.CausalMask((T, S))
    else:
        mask = masks.LocalMask((T, S), window, 0)
    rows, columns = _block(T), _block(S)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * H),
        block_sizes=kernels.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )
    # a sink is a key of no value, whose logit is given
    sinks = {} if null_logit is None else {"sinks": jnp.full(H, null_logit, jnp.float32)}

    def one(query, key, value, *ids):
        segments = kernels.SegmentIds(*ids) if ids else None
        return kernel(query, key, value, segments, **sinks)

    return jax.vmap(one)(query, key, value, *ids)


def _ids(batch, T, S, segment_ids, visible):
    """Numbers [*B, T] of queries and [*B, S] of keys: those of one number may meet."""
    runs = None
    if segment_ids is not None:
        runs = jnp.cumsum(segment_starts(segment_ids), -1, dtype=jnp.int32)
    query_ids = jnp.zeros((*batch, T), jnp.int32) if runs is None else runs
    key_ids = jnp.zeros((*batch, S), jnp.int32) if runs is None else runs
    return query_ids, key_ids if visible is None else jnp.where(visible, key_ids, -1)


def _keys_read(visible, segment_ids, T, window):
    """How many keys each query reads, [*B, T]."""
    first, last = reach(segment_ids, T, visible.shape[-1], window)
    counts = jnp.cumsum(visible, -1, dtype=jnp.int32)
    counts = jnp.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(1, 0)])
    first, last = (jnp.broadcast_to(x, (*counts.shape[:-1], T)) for x in (first, last))
    there = jnp.take_along_axis(counts, jnp.maximum(last, first), -1)
    return there - jnp.take_along_axis(counts, first, -1)


def reach(segment_ids, T, S, window):
    """The first key that each query may read and the one behind its last, [T] or [*B, T]."""
    left, right = window
    places = jnp.arange(T, dtype=jnp.int32)
    first = jnp.zeros_like(places) if left is None else jnp.clip(places - left, 0, S)
    last = jnp.full_like(places, S) if right is None else jnp.minimum(places + right + 1, S)
    if segment_ids is not None:
        starts = jnp.where(segment_starts(segment_ids), places, 0)
        ends = jnp.where(segment_starts(segment_ids, reverse=True), places + 1, S)
        first = jnp.maximum(first, lax.cummax(starts, axis=starts.ndim - 1))
        last = jnp.minimum(last, lax.cummin(ends, axis=ends.ndim - 1, reverse=True))
    return first, last


def _padded(length):
    """The length up to which the kernel's blocks fill."""
    sizes = (-(-length // block) * block for block in BLOCKS)
    return next((size for size in sizes if 8 * (size - length) <= length), -(-length // 128) * 128)


def _block(length):
    """The block of a padded length."""
    return next(block for block in BLOCKS if length % block == 0)


def _pad(x, axis, size, fill=0):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, padding, constant_values=fill) if padding[axis][1] else x

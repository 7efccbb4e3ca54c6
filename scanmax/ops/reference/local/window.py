"""Windows and halos, as dense masked attention over all pixels."""

import jax.numpy as jnp
import numpy as np

from scanmax.ops.reference.local.neighborhood import (
    _around,
    _dense,
    _lookup,
    _pair,
    _values_for,
)


def _windows(query, key, value, table, windows, shifts, more, scale, normalizer):
    size = query.shape[-4:-2]
    places = [np.arange(n) for n in size]
    reads = []
    for p, n, w, s in zip(places, size, windows, shifts):
        window = (p - s) // w if n > w else 0 * p
        reads.append(window[:, None] == window[None])
    added = _lookup(table, [p[None] - p[:, None] for p in places])

    def terms(q):
        shape = (*q.shape[:-1], size[0] * size[1])
        return jnp.broadcast_to(added.reshape((1,) * (q.ndim - 3) + added.shape), shape)

    keys = (*places, size)
    return _dense(query, key, value, reads, keys, terms, *more, scale, normalizer)


def window_attention(
    query,
    key,
    value,
    relative_bias=None,
    *,
    window_size,
    shift=0,
    global_key=None,
    global_value=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y_p = sum of normalizer(scale q_p . k_q + bias[q - p]) v_q, floor((p - s) / w) the same."""
    more = (global_key, global_value)
    return _windows(
        query,
        key,
        value,
        relative_bias,
        _pair(window_size),
        _pair(shift),
        more,
        scale,
        normalizer,
    )[0]


def window_attention_matrix(
    query,
    key,
    relative_bias=None,
    *,
    window_size,
    shift=0,
    global_key=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P[p, q] = normalizer(scale q_p . k_q + bias[q - p]) where floor((p - s) / w) is the same."""
    value, global_value = _values_for(key, global_key)
    return _windows(
        query,
        key,
        value,
        relative_bias,
        _pair(window_size),
        _pair(shift),
        (global_key, global_value),
        scale,
        normalizer,
    )[1]


def _halos(query, key, value, rows, columns, sizes, edges, more, scale, normalizer):
    blocks, halos, strides = sizes
    size = query.shape[-4:-2]
    query = query[..., :: strides[0], :: strides[1], :, :]
    places, reads, offsets, before, after = [], [], [], [], []
    for n, b, h, s in zip(size, blocks, halos, strides):
        first, last = (-h, -(-n // b) * b + h) if edges == "zero" else (0, n)
        p, q = np.arange(0, n, s)[:, None], np.arange(first, last)[None]
        block = p // b * b
        reads.append((q >= block - h) & (q < block + b + h))
        offsets.append((q - block) - (p - block) // s)
        places.append(q[0])
        before.append(-first)
        after.append(last - n)
    key, value = (_around(x, before, after) for x in (key, value))

    def terms(q):
        """q . rows[q_y - p_y] + q . columns[q_x - p_x]."""
        shape = (*q.shape[:-1], len(places[0]) * len(places[1]))
        if rows is None:
            return jnp.zeros(shape, q.dtype)
        maps = q.reshape(*q.shape[:-2], *(len(offset) for offset in offsets), q.shape[-1])
        by_row, by_column = (
            x[np.clip(d + len(x) // 2, 0, len(x) - 1)] for x, d in zip((rows, columns), offsets)
        )
        by_row = jnp.einsum("...yxk,yik->...yxi", maps, by_row)
        by_column = jnp.einsum("...yxk,xjk->...yxj", maps, by_column)
        return (by_row[..., :, None] + by_column[..., None, :]).reshape(shape)

    keys = (*places, size)
    return _dense(query, key, value, reads, keys, terms, *more, scale, normalizer)


def halo_attention(
    query,
    key,
    value,
    relative_rows=None,
    relative_columns=None,
    *,
    block_size,
    halo,
    stride=1,
    edges="masked",
    global_key=None,
    global_value=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y_p = sum of normalizer(scale q_p . k_q + q_p . rows + q_p . columns) v_q, q near p."""
    more = (global_key, global_value)
    arrays = (query, key, value, relative_rows, relative_columns)
    sizes = (_pair(block_size), _pair(halo), _pair(stride))
    return _halos(*arrays, sizes, edges, more, scale, normalizer)[0]


def halo_attention_matrix(
    query,
    key,
    relative_rows=None,
    relative_columns=None,
    *,
    block_size,
    halo,
    stride=1,
    edges="masked",
    global_key=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P[p, q] = normalizer(scale q_p . k_q + q_p . rows + q_p . columns), q near p."""
    value, global_value = _values_for(key, global_key)
    more = (global_key, global_value)
    arrays = (query, key, value, relative_rows, relative_columns)
    sizes = (_pair(block_size), _pair(halo), _pair(stride))
    return _halos(*arrays, sizes, edges, more, scale, normalizer)[1]

"""Neighbourhoods and MSA-Conv, as dense masked attention over all pixels and those around them."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from scanmax.ops.attention.normalizer import get_normalizer
from scanmax.ops.reference.attention.dot_product import _weights


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def _dense(query, key, value, reads, keys, terms, global_key, global_value, scale, normalizer):
    """Attention of the queries at `reads` rows and columns, as y [*B, Yq, Xq, H, V] and weights.

    Args:
      query: [*B, Yq, Xq, H, K].
      key: [*B, Y, X, G, K], like value on places `keys` = (rows, columns), some outside the map.
      reads: ([Yq, Y], [Xq, X]) bool, whether a query's row reads a key's row.
      terms: function of queries [*B, H, T, K], gives what is added to the logits [*B, H, T, S].
    """
    *batch, Yq, Xq, H, K = query.shape
    G = key.shape[-2]
    rows, columns = reads
    where = rows[:, None, :, None] & columns[None, :, None, :]
    where = where.reshape(Yq * Xq, -1)
    q, k, v = (lax.collapse(x, -4, -2) for x in (query, key, value))
    before = 0 if global_key is None else global_key.shape[-3]
    if before:
        k = jnp.concatenate([global_key, k], -3)
        v = jnp.concatenate([global_value, v], -3)
    k, v = (jnp.repeat(x, H // G, -2) for x in (k, v))
    scale = K**-0.5 if scale is None else scale
    logits = scale * jnp.einsum("...thk,...shk->...hts", q, k)
    added = terms(jnp.swapaxes(q, -3, -2))
    logits = logits + jnp.pad(added, [(0, 0)] * (added.ndim - 1) + [(before, 0)])
    where = np.pad(where, ((0, 0), (before, 0)), constant_values=True)
    where = np.broadcast_to(where.reshape((1,) * (len(batch) + 1) + where.shape), logits.shape)
    normalizer = get_normalizer(normalizer, K)
    weights = _weights(normalizer, logits, jnp.asarray(where))
    y = jnp.einsum("...hts,...shv->...thv", weights, v).reshape(*batch, Yq, Xq, H, v.shape[-1])
    inside = (keys[0] >= 0)[:, None] & (keys[0] < keys[2][0])[:, None]
    inside = inside & ((keys[1] >= 0) & (keys[1] < keys[2][1]))[None]
    kept = np.concatenate([np.ones(before, bool), inside.reshape(-1)])
    return y, weights[..., kept]


def _around(x, before, after):
    """The map [*B, Y, X, G, K] with zeros around it."""
    edges = [(0, 0)] * (x.ndim - 4) + list(zip(before, after)) + [(0, 0)] * 2
    return jnp.pad(x, edges)


def _lookup(table, offsets):
    """table[h, dy, dx] for offsets ([Yq, Y], [Xq, X]), 0 in the middle: [H, T, S]."""
    if table is None:
        return jnp.zeros((1, 1, 1))
    rows, columns = (
        np.clip(offset + size // 2, 0, size - 1) for offset, size in zip(offsets, table.shape[1:])
    )
    x = table[:, rows[:, None, :, None], columns[None, :, None, :]]
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1)


def _neighborhood(
    query, key, value, table, kernel, stride, dilation, edges, more, scale, normalizer
):
    """(y, weights) of the k x k keys around each query."""
    size = query.shape[-4:-2]
    query = query[..., :: stride[0], :: stride[1], :, :]
    places, reads, offsets, reach = [], [], [], []
    for n, k, s, d in zip(size, kernel, stride, dilation):
        r = k // 2 * d if edges == "zero" else 0
        p, q = np.arange(0, n, s)[:, None], np.arange(-r, n + r)[None]
        first = p - k // 2 * d
        if edges == "clamped":
            # the map of the pixels p mod d has so many members, of which p is the p // d -th
            members = -(-(n - p % d) // d)
            first = p % d + d * np.clip(p // d - k // 2, 0, np.maximum(members - k, 0))
        reads.append((q >= first) & (q < first + k * d) & ((q - p) % d == 0))
        offsets.append((q - p) // d)
        places.append(q[0])
        reach.append(r)
    key, value = (_around(x, reach, reach) for x in (key, value))
    added = _lookup(table, offsets)

    def terms(q):
        return jnp.broadcast_to(
            added.reshape((1,) * (q.ndim - 3) + added.shape),
            (*q.shape[:-1], len(places[0]) * len(places[1])),
        )

    keys = (*places, size)
    return _dense(query, key, value, reads, keys, terms, *more, scale, normalizer)


def _values_for(key, global_key):
    """Any values, where only the weights are wanted."""
    return jnp.zeros_like(key), global_key


def neighborhood_attention(
    query,
    key,
    value,
    relative_bias=None,
    *,
    kernel_size,
    dilation=1,
    edges="clamped",
    global_key=None,
    global_value=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y_p = sum over q in N(p) of normalizer(scale q_p . k_q + bias[(q - p) / dilation]) v_q."""
    more = (global_key, global_value)
    kernel, dilation = _pair(kernel_size), _pair(dilation)
    return _neighborhood(
        query, key, value, relative_bias, kernel, (1, 1), dilation, edges, more, scale, normalizer
    )[0]


def neighborhood_attention_matrix(
    query,
    key,
    relative_bias=None,
    *,
    kernel_size,
    dilation=1,
    edges="clamped",
    global_key=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P[p, q] = normalizer(scale q_p . k_q + bias[(q - p) / dilation]) for q in N(p)."""
    value, global_value = _values_for(key, global_key)
    more = (global_key, global_value)
    kernel, dilation = _pair(kernel_size), _pair(dilation)
    return _neighborhood(
        query, key, value, relative_bias, kernel, (1, 1), dilation, edges, more, scale, normalizer
    )[1]


def msa_conv(
    query,
    key,
    value,
    relative_bias=None,
    *,
    kernel_size=3,
    stride=1,
    dilation=1,
    edges="zero",
    global_key=None,
    global_value=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """y[u] = sum_o normalizer_o(scale q[u s] . k[u s + d o] + bias[o]) v[u s + d o]."""
    more = (global_key, global_value)
    kernel, stride, dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
    return _neighborhood(
        query, key, value, relative_bias, kernel, stride, dilation, edges, more, scale, normalizer
    )[0]


def msa_conv_matrix(
    query,
    key,
    relative_bias=None,
    *,
    kernel_size=3,
    stride=1,
    dilation=1,
    edges="zero",
    global_key=None,
    scale=None,
    normalizer="softmax",
    precision=None,
):
    """P[u, q] = normalizer_o(scale q[u s] . k_q + bias[o]) at q = u s + d o."""
    value, global_value = _values_for(key, global_key)
    more = (global_key, global_value)
    kernel, stride, dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
    return _neighborhood(
        query, key, value, relative_bias, kernel, stride, dilation, edges, more, scale, normalizer
    )[1]

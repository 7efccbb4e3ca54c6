"""Attention whose weights are sums of scores as a Pallas kernel for TPUs: sigmoid and its like.

    Y_i = sum over j of score(l_ij, n_i) [v_j, 1],   y_i = Y_i, or Y_i / (its last entry + null)

Where a normalizer's score needs no row's level, blocks of keys just add up: no running maximum and
nothing to rescale. A program holds one block of queries and goes over the keys; logits and weights
never leave the chip's own memory. The backward pass goes over the keys for the gradient of queries,
over the queries for those of keys and values, and pulls both back through the block's own equation.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention.normalizer import Normalizer, needs_passes
from scanmax.ops.contract import over_mesh, platform
from scanmax.ops.kernel_parts import column, dot

# Queries and keys of a block; a shorter sequence is one block of a multiple of 128.
BLOCK = 512


def adds_up(normalizer: Normalizer) -> bool:
    """Whether blocks of a normalizer's scores just add up."""
    return not normalizer.shifted and not needs_passes(normalizer)


def sums_attention(normalizer, query, key, value, scale, window, cap, counts, ids):
    """Attention [*B, T, H, V] of checked arrays.

    Args:
      normalizer: one that `adds_up`.
      query: [*B, T, H, K].
      key: [*B, S, G, K].
      value: [*B, S, G, V].
      scale: scalar factor of the logits.
      window: (left, right) numbers of keys, None for all.
      cap: of the logits, or None.
      counts: [*B, T] keys that each row may attend to.
      ids: ([*B, T], [*B, S]): a query reads keys of its own number only.
    """
    *batch, T, H, _ = query.shape
    S, V, dtype = key.shape[-3], value.shape[-1], value.dtype
    query = (query.astype(jnp.float32) * scale.astype(jnp.float32)).astype(key.dtype)
    if normalizer.normalized:
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    arrays = [
        _padded(jnp.moveaxis(x.reshape(math.prod(batch), *x.shape[-3:]), -3, -2), 2)
        for x in (query, key, value)
    ]
    rows = [
        _padded(jnp.broadcast_to(x, (*batch, n)).reshape(-1, n).astype(jnp.float32), 1, fill)
        for x, n, fill in ((counts, T, 1), (ids[0], T, -1), (ids[1], S, -2))
    ]
    plan = (normalizer, window, cap, platform() == "cpu")
    sums = over_mesh(functools.partial(_sums, plan), arrays, rows)[:, :, :T]
    if normalizer.normalized:
        total = sums[..., V:]
        if normalizer.null_logit is not None:
            null = jnp.full(total.shape, normalizer.null_logit, jnp.float32)
            total = total + normalizer.score(null, None, counts.reshape(-1, 1, T, 1))
        sums = jnp.where(total > 0, sums[..., :V] / jnp.where(total > 0, total, 1), 0)
    return jnp.moveaxis(sums, 1, 2).reshape(*batch, T, H, V).astype(dtype)


def _block(plan, q, k, v, counts, query_ids, key_ids, first):
    """Sums of a block, [q, V]; `first` are the places of its first query and key."""
    normalizer, (left, right), cap, _ = plan
    logits = dot(q, k, (1, 1))
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    i, j = (lax.broadcasted_iota(jnp.int32, logits.shape, axis) + first[axis] for axis in (0, 1))
    seen = column(query_ids) == key_ids
    if left is not None:
        seen &= j >= i - left
    if right is not None:
        seen &= j <= i + right
    weights = jnp.where(seen, normalizer.score(logits, None, column(counts)), 0.0)
    return dot(weights.astype(v.dtype), v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(plan, query, key, value, counts, query_ids, key_ids):
    """[B, H, T, V] in float32."""
    call = _Call(plan, query, key, value)
    (y,) = call(_forward_kernel, "keys", [("query", value.shape[-1])], (counts, query_ids, key_ids))
    return y


def _keeping(plan, *arrays):
    return _sums(plan, *arrays), arrays


def _pull(plan, kept, d_y):
    query, key, value, *rows = kept
    call = _Call(plan, query, key, value)
    (d_query,) = call(_query_kernel, "keys", [("query", query.shape[-1])], rows, d_y)
    widths = [("key", key.shape[-1]), ("key", value.shape[-1])]
    gradients = call(_key_kernel, "queries", widths, rows, d_y)
    d_key, d_value = (
        x.reshape(*like.shape[:2], -1, *like.shape[2:]).sum(2).astype(like.dtype)
        for x, like in zip(gradients, (key, value))
    )
    return d_query.astype(query.dtype), d_key, d_value, *(jnp.zeros_like(x) for x in rows)


_sums.defvjp(_keeping, _pull)


def _forward_kernel(plan, first, q, k, v, *rest):
    *rows, y_ref = rest
    y_ref[...] += _block(plan, q[...], k[...], v[...], *(row[...] for row in rows), first)


def _query_kernel(plan, first, q, k, v, *rest):
    *rows, dy_ref, dq_ref = rest
    rows = [row[...] for row in rows]
    _, pull = jax.vjp(lambda q: _block(plan, q, k[...], v[...], *rows, first), q[...])
    dq_ref[...] += pull(dy_ref[...])[0].astype(jnp.float32)


def _key_kernel(plan, first, q, k, v, *rest):
    *rows, dy_ref, dk_ref, dv_ref = rest
    rows = [row[...] for row in rows]
    _, pull = jax.vjp(lambda k, v: _block(plan, q[...], k, v, *rows, first), k[...], v[...])
    for ref, gradient in zip((dk_ref, dv_ref), pull(dy_ref[...])):
        ref[...] += gradient.astype(jnp.float32)


class _Call:
    """Kernels over rows, heads, and blocks of queries and of keys, which are summed over one."""

    def __init__(self, plan, query, key, value):
        self.plan, self.arrays = plan, (query, key, value)
        (self.B, self.H, self.T, _), self.S = query.shape, key.shape[2]
        self.shared = self.H // key.shape[1]
        self.size = {"query": _block_size(self.T), "key": _block_size(self.S)}

    def __call__(self, body, over, outputs, rows, d_y=None):
        """`body` in turn for all blocks of keys (or queries) of one of queries (or keys)."""
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu as pltpu

        blocks = {"query": self.T // self.size["query"], "key": self.S // self.size["key"]}
        order = ("query", "key") if over == "keys" else ("key", "query")
        plan, sizes = self.plan, self.size

        def at(kind, indices):
            return indices[order.index(kind)]

        def kernel(*refs):
            indices = [pl.program_id(axis) for axis in (2, 3)]
            found = refs[len(refs) - len(outputs) :]

            @pl.when(indices[1] == 0)
            def start():
                for ref in found:
                    ref[...] = jnp.zeros(ref.shape, ref.dtype)

            i, j = (at(kind, indices) * sizes[kind] for kind in ("query", "key"))
            (left, right), seen = plan[1], True
            if right is not None:
                seen = j <= i + sizes["query"] - 1 + right
            if left is not None:
                seen = jnp.logical_and(seen, j + sizes["key"] - 1 >= i - left)

            @pl.when(seen)
            def add():
                body(plan, (i, j), *refs)

        def spec(kind, width, shared=1):
            size = sizes[kind]
            return pl.BlockSpec(
                (None, None, size, width),
                lambda b, h, *indices: (b, h // shared, at(kind, indices), 0),
            )

        def row(kind):
            size = sizes[kind]
            return pl.BlockSpec(
                (None, None, 1, size), lambda b, h, *indices: (b, at(kind, indices), 0, 0)
            )

        query, key, value = self.arrays
        inputs = [
            (query, spec("query", query.shape[-1])),
            (key, spec("key", key.shape[-1], self.shared)),
            (value, spec("key", value.shape[-1], self.shared)),
        ]
        inputs += [
            (x.reshape(self.B, blocks[kind], 1, sizes[kind]), row(kind))
            for x, kind in zip(rows, ("query", "query", "key"))
        ]
        if d_y is not None:
            inputs.append((d_y, spec("query", d_y.shape[-1])))
        lengths = {"query": self.T, "key": self.S}
        return pl.pallas_call(
            kernel,
            grid=(self.B, self.H, *(blocks[kind] for kind in order)),
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec(kind, width) for kind, width in outputs],
            out_shape=[
                jax.ShapeDtypeStruct((self.B, self.H, lengths[kind], width), jnp.float32)
                for kind, width in outputs
            ],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
            ),
            interpret=plan[3],
            name=f"sums_of_scores{body.__name__.removesuffix('_kernel')}",
        )(*(x for x, _ in inputs))


def _block_size(length):
    return BLOCK if length % BLOCK == 0 else length


def _padded(x, axis, fill=0):
    """Up to a multiple of 128, or of a block where it is longer."""
    length = x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -length % (BLOCK if length > BLOCK else 128))
    return jnp.pad(x, padding, constant_values=fill)

"""The ring: every device keeps its queries; keys and values pass by, part after part.

Inside shard_map. Each device holds 1 / P of the tokens: one run of them ("contiguous"), or two, one
from either end of the sequence ("zigzag"). In step s the keys of device d - s lie on device d. A
piece of queries meets a piece of keys in the blocks of `attention_streaming`, told where in the
sequence the two begin; blocks that causality or a window empties are skipped there, so a whole
piece may cost nothing. The backward pass goes round once more, with the gradients of keys and
values travelling beside them: after P steps they are home.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention_streaming import (
    _Blocks,
    add_keys,
    backward,
    finish_row,
    join_rows,
    row_products,
    start_row,
    visible_keys,
    weigh_rows,
)
from scanmax.ops.contract import accumulator_dtype, vary_like


@dataclasses.dataclass(frozen=True)
class Ring:
    """The static part of a ring: mesh axis, devices P, keys S in all, two pieces or one."""

    axis: str
    devices: int
    keys: int
    zigzag: bool

    @property
    def pieces(self) -> int:
        """Runs of the sequence on one device."""
        return 2 if self.zigzag else 1

    def starts(self, device, tokens: int) -> list:
        """Where in the sequence the pieces of a device begin, `tokens` long each."""
        if not self.zigzag:
            return [device * tokens]
        return [device * tokens, (2 * self.devices - 1 - device) * tokens]

    def cut(self, x, axis: int = -3) -> list:
        """The pieces of a device's tokens."""
        return jnp.split(x, self.pieces, axis)

    def index(self):
        """This device's place."""
        return jnp.asarray(lax.axis_index(self.axis) if self.devices > 1 else 0, jnp.int32)

    def pass_on(self, tree):
        """What every device holds, on the next one."""
        if self.devices == 1:
            return tree
        pairs = [(d, (d + 1) % self.devices) for d in range(self.devices)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.axis, pairs), tree)


class _Piece(_Blocks):
    """Blocks of a piece of queries and one of keys that begin at places of the whole sequence."""

    def __init__(self, plan, arrays, row, column, keys):
        self.row, self.column = row, column
        super().__init__(plan, *arrays)
        self.num_keys = keys
        self.end = keys
        if plan.normalizer.counts_visible:
            query = arrays[0]
            window = (
                None if plan.left is None else plan.left - row,
                None if plan.right is None else plan.right + row,
            )
            self.visible = self.matrix(visible_keys(query, keys, window, None, None, self.dtype))

    def allowed(self, i, j):
        ones = (1,) * (len(self.batch) + 2)
        own_row = i * self.bq + lax.broadcasted_iota(jnp.int32, (*ones, self.bq, 1), len(ones))
        own_column = j * self.bk + lax.broadcasted_iota(
            jnp.int32, (*ones, 1, self.bk), len(ones) + 1
        )
        row, column = own_row + self.row, own_column + self.column
        left, right = self.plan.left, self.plan.right
        allowed = (own_column < self.S) & (column < self.end)
        if right is not None:
            allowed &= column <= row + right
        if left is not None:
            allowed &= column >= row - left
        return allowed

    def keys_seen(self, i):
        first, last = 0, self.nk
        if self.plan.left is not None:
            nearest = self.row + i * self.bq - self.plan.left - self.column
            first = jnp.clip(nearest // self.bk, 0, self.nk)
        if self.plan.right is not None:
            furthest = self.row + i * self.bq + (self.bq - 1 + self.plan.right) - self.column
            last = jnp.clip(furthest // self.bk + 1, 0, self.nk)
        return first, last

    def queries_seeing(self, j):
        first, last = 0, self.nq
        if self.plan.right is not None:
            nearest = self.column + j * self.bk - self.plan.right - self.row
            first = jnp.clip(nearest // self.bq, 0, self.nq)
        if self.plan.left is not None:
            furthest = self.column + j * self.bk + (self.bk - 1 + self.plan.left) - self.row
            last = jnp.clip(furthest // self.bq + 1, 0, self.nq)
        return first, last


def _arrays(query, key, value, scale):
    """In the order of the streaming module: no bias, mask or lengths."""
    return query, key, value, None, None, scale, None


def _travel(where, travelling, kept, meet):
    """P steps: kept, travelling = meet(kept, travelling, device whose keys are here), pass on."""
    own = where.index()

    def step(carry, s):
        kept, travelling = meet(*carry, (own - s) % where.devices)
        return (kept, where.pass_on(travelling)), None

    steps = jnp.arange(where.devices, dtype=jnp.int32)
    return lax.scan(step, (kept, travelling), steps)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ring(plan, where, query, key, value, scale):
    """Attention of this device's queries to the keys of all: [*B, T, H, V]."""
    return _ring_forward(plan, where, query, key, value, scale)[0]


def _ring_forward(plan, where, query, key, value, scale):
    queries = where.cut(query)
    row_starts = where.starts(where.index(), queries[0].shape[-3])

    def pieces(key, value, device):
        """(query piece, its blocks, key piece) of every pair."""
        keys, values = where.cut(key), where.cut(value)
        column_starts = where.starts(device, keys[0].shape[-3])
        for a, (part, row) in enumerate(zip(queries, row_starts)):
            for k, v, column in zip(keys, values, column_starts):
                yield a, _Piece(plan, _arrays(part, k, v, scale), row, column, where.keys)

    def first_rows(blocks):
        def block(i):
            return vary(start_row(blocks, i))

        return lax.map(block, jnp.arange(blocks.nq, dtype=jnp.int32))

    def vary(tree):
        return jax.tree.map(lambda x: vary_like(x, query, key, value, scale), tree)

    def meet(sums, travelling, device):
        sums = list(sums)
        for a, blocks in pieces(*travelling, device):

            def add(inputs, blocks=blocks):
                i, carry = inputs
                return vary(add_keys(blocks, i, carry))

            sums[a] = lax.map(add, (jnp.arange(blocks.nq, dtype=jnp.int32), sums[a]))
        return tuple(sums), travelling

    starts = {a: first_rows(blocks) for a, blocks in pieces(key, value, where.index())}
    sums, _ = _travel(where, (key, value), tuple(starts[a] for a in range(where.pieces)), meet)
    outputs, statistics = [], []
    for a, blocks in pieces(key, value, where.index()):
        if len(outputs) > a:
            continue
        y, level, inverse = jax.vmap(lambda carry: finish_row(plan.normalizer, carry))(sums[a])
        outputs.append(blocks.unrows(join_rows(y)).astype(value.dtype))
        statistics.append((level, inverse))
    y = jnp.concatenate(outputs, -3) if len(outputs) > 1 else outputs[0]
    return y, ((query, key, value, scale), y, tuple(statistics))


def _ring_backward(plan, where, residuals, d_y):
    (query, key, value, scale), y, statistics = residuals
    queries, outputs, cotangents = (where.cut(x) for x in (query, y, d_y))
    row_starts = where.starts(where.index(), queries[0].shape[-3])

    dtype = accumulator_dtype(query, key, value)

    def zeros(x):
        return vary_like(jnp.zeros(x.shape, dtype), query, key, value, scale, d_y)

    def meet(kept, travelling, device):
        d_queries, d_scale = list(kept[0]), kept[1]
        key, value, d_key, d_value = travelling
        keys, values = where.cut(key), where.cut(value)
        d_keys, d_values = where.cut(d_key), where.cut(d_value)
        column_starts = where.starts(device, keys[0].shape[-3])
        for a, row in enumerate(row_starts):
            for b, column in enumerate(column_starts):
                arrays = _arrays(queries[a], keys[b], values[b], scale)
                blocks = _Piece(plan, arrays, row, column, where.keys)
                d_rows = blocks.rows(cotangents[a])
                drop = None
                if plan.normalizer.normalized:
                    drop = row_products(blocks, d_rows, blocks.rows(outputs[a]))
                weigh = weigh_rows(blocks, *statistics[a], drop)
                found = backward(blocks, arrays, d_rows, weigh, cast=False)
                d_queries[a] += found[0]
                d_keys[b] += found[1]
                d_values[b] += found[2]
                d_scale += found[5]
        join = functools.partial(jnp.concatenate, axis=-3)
        return (tuple(d_queries), d_scale), (key, value, join(d_keys), join(d_values))

    kept = (tuple(zeros(x) for x in queries), zeros(scale))
    travelling = (key, value, zeros(key), zeros(value))
    (d_queries, d_scale), (_, _, d_key, d_value) = _travel(where, travelling, kept, meet)
    d_query = jnp.concatenate(d_queries, -3)
    return tuple(
        gradient.astype(x.dtype)
        for gradient, x in zip((d_query, d_key, d_value, d_scale), (query, key, value, scale))
    )


ring.defvjp(_ring_forward, _ring_backward)

"""The ring: every device keeps its queries; keys and values pass by, part after part.

Inside shard_map. Each device holds 1 / P of the tokens: one run of them ("contiguous"), or two, one
from either end of the sequence ("zigzag"). In step s the keys of device d - s lie on device d. A
piece of queries meets a piece of keys in the blocks of `attention.streaming`, told where in the
sequence the two begin; blocks that causality or a window empties are skipped there, so a whole
piece may cost nothing. A normalizer that reads the keys several times (`attention.passes`) sends
them round once per pass. The backward pass goes round once more, with the gradients of keys and
values travelling beside them: after P steps they are home.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention.normalizer import needs_passes
from scanmax.ops.attention.passes import attend_rows, sweep_keys, weigh_passes
from scanmax.ops.attention.streaming import (
    _Blocks,
    add_keys,
    backward,
    finish_row,
    join_rows,
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
        self.end = keys
        if plan.normalizer.counts_keys:
            query = arrays[0]
            window = (
                None if plan.left is None else plan.left - row,
                None if plan.right is None else plan.right + row,
            )
            visible = visible_keys(query, keys, window, None, None, self.dtype)
            self.visible = self.matrix(visible, fill=1)

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


class _Rows:
    """All rows of this device, [pieces, nq, ...]: what `attention.passes` evaluates.

    Each pass over the keys is one round of them.
    """

    def __init__(self, plan, where, query, key, value, scale):
        self.plan, self.where = plan, where
        self.key, self.value, self.scale = key, value, scale
        self.queries = where.cut(query)
        self.starts = where.starts(where.index(), self.queries[0].shape[-3])
        # one for each piece of queries
        self.own = [blocks for b, _, blocks in self.pairs(key, value, where.index()) if b == 0]
        first = self.own[0]
        self.shape = (where.pieces, first.nq, *first.batch, first.G, first.R, first.bq)
        self.num_keys = None
        if first.visible is not None:
            self.num_keys = self.rows(lambda blocks, i: blocks.keys_counted(i))

    def pairs(self, key, value, device):
        """(key piece, query piece, their blocks) of all pairs, given the keys of a device."""
        keys, values = self.where.cut(key), self.where.cut(value)
        column_starts = self.where.starts(device, keys[0].shape[-3])
        for b, (k, v, column) in enumerate(zip(keys, values, column_starts)):
            for a, (q, row) in enumerate(zip(self.queries, self.starts)):
                arrays = _arrays(q, k, v, self.scale)
                yield b, a, _Piece(self.plan, arrays, row, column, self.where.keys)

    def vary(self, tree):
        arrays = (*self.queries, self.key, self.value, self.scale)
        return jax.tree.map(lambda x: vary_like(x, *arrays), tree)

    def rows(self, function, *known):
        """function(blocks, i, *known of block i) of every query block."""
        found = []
        for a, blocks in enumerate(self.own):
            blocks_known = _piece(known, a)
            indices = jnp.arange(blocks.nq, dtype=jnp.int32)

            def block(inputs, blocks=blocks):
                return self.vary(function(blocks, inputs[0], *inputs[1]))

            found.append(lax.map(block, (indices, blocks_known)))
        return _stack(found)

    def round(self, add, carry, known=None):
        """carry after add(blocks, i, carry, known) of every query block with all keys."""

        def meet(sums, travelling, device):
            sums = [_piece(sums, a) for a in range(self.where.pieces)]
            for _, a, blocks in self.pairs(*travelling, device):
                indices = jnp.arange(blocks.nq, dtype=jnp.int32)

                def block(inputs, blocks=blocks):
                    return self.vary(add(blocks, *inputs))

                sums[a] = lax.map(block, (indices, sums[a], _piece(known, a)))
            return _stack(sums), travelling

        return _travel(self.where, (self.key, self.value), carry, meet)[0]

    def full(self, fill=0.0):
        return self.own[0].carry(self.shape, fill)

    def outputs(self):
        return self.own[0].carry((*self.shape, self.own[0].V))

    def sweep(self, body, carry, known=None):
        def add(blocks, i, carry, known):
            return sweep_keys(blocks, i, body, carry, known)

        return self.round(add, carry, known)

    def any(self, condition):
        here = jnp.any(condition)
        if self.where.devices == 1:
            return here
        return lax.pmax(here.astype(jnp.int32), self.where.axis) > 0

    def tokens(self, x, dtype):
        """[pieces, nq, *B, G, R, bq, V] -> [*B, T, H, V]."""
        y = [blocks.unrows(join_rows(x[a])) for a, blocks in enumerate(self.own)]
        return jnp.concatenate(y, -3).astype(dtype)


def _piece(tree, a):
    return jax.tree.map(lambda x: x[a], tree)


def _stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ring(plan, where, query, key, value, scale):
    """Attention of this device's queries to the keys of all: [*B, T, H, V]."""
    return _forward(plan, where, query, key, value, scale, keep=False)[0]


def _forward(plan, where, *arrays, keep):
    """The output, and what the gradient needs: statistics, and V' of several passes where kept."""
    rows, value = _Rows(plan, where, *arrays), arrays[2]
    if needs_passes(plan.normalizer):
        y, statistics, slope_y = attend_rows(plan.normalizer, rows, keep)
        return rows.tokens(y, value.dtype), statistics, slope_y

    def add(blocks, i, carry, _):
        return add_keys(blocks, i, carry)

    y, *statistics = finish_row(plan.normalizer, rows.round(add, rows.rows(start_row)))
    return rows.tokens(y, value.dtype), tuple(statistics), None


def _ring_forward(plan, where, *arrays):
    y, statistics, slope_y = _forward(plan, where, *arrays, keep=True)
    return y, (arrays, y, statistics, slope_y)


def _ring_backward(plan, where, residuals, d_y):
    (query, key, value, scale), y, statistics, slope_y = residuals
    rows = _Rows(plan, where, query, key, value, scale)
    outputs, cotangents = where.cut(y), where.cut(d_y)
    dtype = accumulator_dtype(query, key, value)

    def zeros(x):
        return vary_like(jnp.zeros(x.shape, dtype), query, key, value, scale, d_y)

    def meet(kept, travelling, device):
        d_queries, d_scale = list(kept[0]), kept[1]
        key, value, *found = travelling
        d_keys, d_values = (where.cut(x) for x in found)
        for b, a, blocks in rows.pairs(key, value, device):
            d_rows, y_rows = blocks.rows(cotangents[a]), blocks.rows(outputs[a])
            own = _piece(statistics, a)
            if needs_passes(plan.normalizer):
                weigh = weigh_passes(blocks, own, d_rows, y_rows, join_rows(slope_y[a]))
            else:
                weigh = weigh_rows(blocks, own, d_rows, y_rows)
            d_query, d_key, d_value, _, _, d_own, *_ = backward(
                blocks, blocks.arrays, d_rows, weigh, cast=False
            )
            d_queries[a] += d_query
            d_keys[b] += d_key
            d_values[b] += d_value
            d_scale += d_own
        join = functools.partial(jnp.concatenate, axis=-3)
        return (tuple(d_queries), d_scale), (key, value, join(d_keys), join(d_values))

    kept = (tuple(zeros(x) for x in rows.queries), zeros(scale))
    travelling = (key, value, zeros(key), zeros(value))
    (d_queries, d_scale), (_, _, d_key, d_value) = _travel(where, travelling, kept, meet)
    d_query = jnp.concatenate(d_queries, -3)
    return tuple(
        gradient.astype(x.dtype)
        for gradient, x in zip((d_query, d_key, d_value, d_scale), (query, key, value, scale))
    )


ring.defvjp(_ring_forward, _ring_backward)

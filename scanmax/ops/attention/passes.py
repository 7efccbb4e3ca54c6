"""Streaming attention for normalizers that need several passes over the keys.

A `Reweighted` normalizer sums its first scores in one pass, and weighs the values in another:

    a = score(l) / z      P = w / u      w = reweight(a)      u = sum(w)
    c = reweight'(a) (dP - sum(P dP)) / u      dL = score'(l) / z (c - sum(a c))

A `Threshold` one takes a pass for the row maximum and one for each step of Newton's method:

    P = score(l - tau)      sum(P) = 1      dL = score'(l - tau) (dP - sum(g dP) / sum(g))

with g = score'. The sums over a row that the gradients need, sum(a c) and sum(g dP), are linear in
dP = dO V^T: with V' = sum(a reweight'(a) v) or sum(g v), a second output of the last pass, they
come from dO V', and the backward pass remains one sweep over the blocks. All memory is linear.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.attention.normalizer import Threshold
from scanmax.ops.attention.streaming import (
    _Blocks,
    _loop,
    backward,
    join_rows,
    row_products,
    row_statistic,
)
from scanmax.ops.softmax.softmax import divide

# Newton's method rises to the threshold: sparsemax ends after finitely many steps (6 on normal
# logits), 1.5-entmax converges quadratically.
MAX_STEPS = 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def stream_passes(plan, query, key, value, bias, mask, scale, key_lengths, *terms):
    """Attention by blocks, as `attention.streaming.stream`."""
    arrays = (query, key, value, bias, mask, scale, key_lengths, *terms)
    return _forward(plan, *arrays, keep=False)[0]


class _Rows:
    """The rows of query block i: sums over their keys, one pass at a time."""

    def __init__(self, blocks, i):
        self.blocks, self.i = blocks, i
        self.num_keys = blocks.keys_counted(i)
        self.shape = (*blocks.batch, blocks.G, blocks.R, blocks.bq)

    def full(self, fill=0.0):
        """One number per row, [*B, G, R, bq]."""
        return self.blocks.carry(self.shape, fill)

    def outputs(self):
        """Zeros to add weighted values to, [*B, G, R, bq, V]."""
        return self.blocks.carry((*self.shape, self.blocks.V))

    def sweep(self, body, carry, known=None):
        """One pass: carry after body(carry, known, logits, num_keys, mix) of every key block.

        `known` holds what earlier passes found per row; mix(weights) weighs the block's values.
        """
        return sweep_keys(self.blocks, self.i, body, carry, known)

    def any(self, condition):
        return jnp.any(condition)


def sweep_keys(blocks, i, body, carry, known):
    """What query block i makes of the key blocks that it sees, see `_Rows.sweep`."""
    q, num_keys = blocks.query_block(blocks.q, i), blocks.keys_counted(i)

    def key_block(j, carry):
        def mix(weights):
            v = blocks.key_block(blocks.v, j)
            weights = blocks.weighed(weights, i, j)
            return blocks.dot("...grqs,...gsv->...grqv", weights.astype(v.dtype), v)

        logits = blocks.logits(q, blocks.key_block(blocks.k, j), i, j)[0]
        return body(carry, known, logits, num_keys, mix)

    return _loop(blocks.keys_seen(i), key_block, carry)


def _forward(plan, *arrays, keep):
    """The output, and what the gradient needs: statistics [nq, ..., bq], V' where kept."""
    blocks, value = _Blocks(plan, *arrays), arrays[2]

    def query_block(i):
        y, statistics, slope_y = attend_rows(plan.normalizer, _Rows(blocks, i), keep)
        return y.astype(value.dtype), statistics, slope_y

    y, statistics, slope_y = lax.map(query_block, jnp.arange(blocks.nq, dtype=jnp.int32))
    return blocks.unrows(join_rows(y)), statistics, None if slope_y is None else join_rows(slope_y)


def attend_rows(normalizer, rows, keep):
    """All passes of some rows: the output, its statistics, and V' where the gradient keeps it."""
    find = _find_threshold if isinstance(normalizer, Threshold) else _sum_first
    found = find(normalizer, rows)

    def weigh(carry, found, logits, num_keys, mix):
        total, y, slope_total, slope_y = carry
        scores, slopes = _last_scores(normalizer, found, logits, num_keys)
        total, y = total + jnp.sum(scores, -1), y + mix(scores)
        if keep:
            slope_total, slope_y = slope_total + jnp.sum(slopes, -1), slope_y + mix(slopes)
        return total, y, slope_total, slope_y

    zero, outputs = rows.full(), rows.outputs()
    start = (zero, outputs, *((zero, outputs) if keep else (None, None)))
    total, y, slope_total, slope_y = rows.sweep(weigh, start, found)
    inverse = divide(jnp.ones_like(total), total)
    if not isinstance(normalizer, Threshold):
        y = y * inverse[..., None]
    return y, (found, inverse, slope_total), slope_y


def _sum_first(normalizer, rows):
    """The level, the inverse of the sum and the largest weight of the first scores of each row."""
    shifted = normalizer.shifted
    level = rows.full(-jnp.inf) if shifted else None
    total = peak = rows.full()
    if normalizer.null_logit is not None:
        null = rows.full(normalizer.null_logit)[..., None]
        shift = normalizer.level(null) if shifted else None
        total = normalizer.score(null, shift, rows.num_keys)[..., 0]
        level = shift[..., 0] if shifted else None

    def add(carry, _, logits, num_keys, mix):
        level, total, peak = carry
        shift = None
        if shifted:
            new = jnp.maximum(level, jnp.max(normalizer.level(logits), -1))
            finite = _finite(new)
            factor = normalizer.rescale(level, finite)
            level, total, peak, shift = new, total * factor, peak * factor, finite[..., None]
        scores = normalizer.score(logits, shift, num_keys)
        return level, total + jnp.sum(scores, -1), jnp.maximum(peak, jnp.max(scores, -1))

    level, total, peak = rows.sweep(add, (level, total, peak))
    inverse = divide(jnp.ones_like(total), total)
    return _finite(level) if shifted else None, inverse, peak * inverse


def _find_threshold(normalizer, rows):
    """The threshold of each row; 0 for a row that attends to nothing."""

    def largest(carry, _, logits, num_keys, mix):
        return jnp.maximum(carry, jnp.max(logits, -1))

    start = _finite(rows.sweep(largest, rows.full(-jnp.inf))) - normalizer.span
    # a step below the rounding of the logits is none
    tolerance = 4 * jnp.finfo(start.dtype).eps

    def add(sums, threshold, logits, num_keys, mix):
        scores, slopes = _slopes(normalizer, logits, threshold[..., None], num_keys)
        return sums[0] + jnp.sum(scores, -1), sums[1] + jnp.sum(slopes, -1)

    def newton(carry):
        steps, threshold, _ = carry
        total, slope = rows.sweep(add, (rows.full(), rows.full()), threshold)
        step = jnp.maximum(divide(total - 1, slope), 0)
        moving = rows.any(step > tolerance * (1 + jnp.abs(threshold)))
        return steps + 1, threshold + step, moving

    def unfinished(carry):
        steps, _, moving = carry
        return moving & (steps < MAX_STEPS)

    first = (jnp.zeros((), jnp.int32), start, rows.any(jnp.ones_like(start, bool)))
    return lax.while_loop(unfinished, newton, first)[1]


def _finite(level):
    return jnp.where(level == -jnp.inf, jnp.zeros_like(level), level)


def _slopes(normalizer, logits, level, num_keys):
    """The scores of a block and their derivatives."""

    def score(logits):
        return normalizer.score(logits, level, num_keys)

    return jax.jvp(score, (logits,), (jnp.ones_like(logits),))


def _reweight(normalizer, found, logits, num_keys):
    """First weights a, their derivatives by l at a fixed sum, reweight(a), and its derivative.

    What `_sum_first` found comes with an axis for the keys.
    """
    level, inverse, peak = found
    scores, slopes = _slopes(normalizer, logits, level, num_keys)
    weights = scores * inverse

    def reweight(weights):
        return normalizer.reweight(weights, peak, num_keys)

    again, again_slopes = jax.jvp(reweight, (weights,), (jnp.ones_like(weights),))
    return weights, slopes * inverse, again, again_slopes


def _last_scores(normalizer, found, logits, num_keys):
    """What weighs the values, and what weighs them in V'."""
    if isinstance(normalizer, Threshold):
        return _slopes(normalizer, logits, found[..., None], num_keys)
    found = jax.tree.map(lambda x: x[..., None], found)
    weights, _, again, again_slopes = _reweight(normalizer, found, logits, num_keys)
    return again, weights * again_slopes


def _passes_forward(plan, *arrays):
    y, statistics, slope_y = _forward(plan, *arrays, keep=True)
    return y, (arrays, y, statistics, slope_y)


def _passes_backward(plan, residuals, d_y):
    arrays, y, statistics, slope_y = residuals
    blocks = _Blocks(plan, *arrays)
    d_y = blocks.rows(d_y)  # [*B, G, R, T, V]
    weigh = weigh_passes(blocks, statistics, d_y, blocks.rows(y), slope_y)
    return backward(blocks, arrays, d_y, weigh)


def weigh_passes(blocks, statistics, d_y, y, slope_y):
    """`weigh` of `backward`, from what `attend_rows` gave and the gradient of its output."""
    normalizer = blocks.plan.normalizer
    slope_drop = row_products(blocks, d_y, slope_y)  # sum(a reweight'(a) dP) or sum(g dP)
    drop = row_products(blocks, d_y, y)  # sum(P dP)

    def weigh_threshold(logits, d_weights, i):
        found, _, slope_total = statistics
        level = row_statistic(found, i)
        scores, slopes = _slopes(normalizer, logits, level, blocks.keys_counted(i))
        mean = divide(blocks.query_block(slope_drop, i), row_statistic(slope_total, i))
        return scores, slopes * (d_weights - mean)

    def weigh_again(logits, d_weights, i):
        found, inverse, slope_total = jax.tree.map(lambda x: row_statistic(x, i), statistics)
        num_keys = blocks.keys_counted(i)
        _, slopes, again, again_slopes = _reweight(normalizer, found, logits, num_keys)
        row = blocks.query_block(drop, i)
        mean = inverse * (blocks.query_block(slope_drop, i) - row * slope_total)
        d_first = again_slopes * inverse * (d_weights - row) - mean
        return again * inverse, slopes * d_first

    return weigh_threshold if isinstance(normalizer, Threshold) else weigh_again


stream_passes.defvjp(_passes_forward, _passes_backward)

"""Attention over sets of keys, in parts that are merged exactly: what the sparse patterns share.

A pattern gathers its keys into sets that few queries read: the block before, a column, the summary
tokens. Each `Part` holds, for every query, the weighted sum over one set with the row sum and the
level of its scores (see `normalizer`), so that parts over disjoint sets merge into what one softmax
over all of them gives:

    level = max_p level_p;   total = sum_p rescale(level_p, level) total_p;   y likewise, / total

Logits are made for a bounded number of sets at a time, and again in the backward pass: memory is
linear in the tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from scanmax.ops.attention.cache import extend_kv_cache
from scanmax.ops.attention.dot_product import check_arrays, scale_of
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer, needs_passes
from scanmax.ops.contract import (
    accumulator_dtype,
    check_rank,
    check_shape,
    platform,
    require,
)

# Logits made at once over sets and heads: on CPU they stay in cache.
PART_LOGITS = {"cpu": 2**19}
PART_LOGITS_ELSEWHERE = 2**25


class Part(NamedTuple):
    """Sums of scores times values [..., H, V], of scores [..., H, 1], and their level."""

    y: Array
    total: Array
    level: Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the parts of a call share.

    Attributes:
      normalizer: of one pass.
      precision: of every matrix product.
      seen: [T, H], how many keys the query at each place reads in all parts; None where the
        normalizer does not ask.
    """

    normalizer: Normalizer
    precision: object = None
    seen: Array | None = None


@dataclasses.dataclass(frozen=True)
class _Ones(Normalizer):
    """Each key that may be read scores 1: the sum of a row is the number of its keys."""

    normalized: ClassVar[bool] = False
    counts_keys: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        return (logits > -jnp.inf).astype(logits.dtype)


def make_plan(normalizer: str | Normalizer, key_dim: int, precision) -> Plan:
    """The plan of a call; refuses normalizers whose rows cannot be merged from parts."""
    normalizer = get_normalizer(normalizer, key_dim)
    require(
        not needs_passes(normalizer),
        f"normalizer={normalizer}: its weights depend on all keys of a row at once, and this op "
        "gathers them in parts. Use ops.dot_product_attention with the pattern as its mask.",
    )
    return Plan(normalizer, precision)


def attend_part(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    scale: Array,
    rows: Array,
    columns: Array,
    allowed: Callable[[Array, Array], Array],
) -> Part:
    """N sets of L queries, each reading its own M keys where `allowed(row, column)`.

    Args:
      plan: normalizer, precision and the numbers of keys.
      query: [N, L, H, K].
      key: [N, M, G, K], where G divides H.
      value: [N, M, G, V].
      scale: scalar factor of the logits.
      rows: [N, L] integers, where the queries stand; padding may stand beyond the last place.
      columns: [N, M] integers, where the keys stand.
      allowed: which pairs of places are read, on arrays that broadcast; it must refuse the places
        of padding.

    Returns:
      Part([N, L, H, V], [N, L, H, 1], [N, L, H, 1]) in accumulator precision.
    """
    N, L, H, _ = query.shape
    G, M = key.shape[-2], key.shape[1]
    # head-first: every set is then one product per key head
    query = jnp.moveaxis(query.reshape(N, L, G, H // G, query.shape[-1]), 1, 3)  # [N, G, R, L, K]
    key, value = jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2)  # [N, G, M, K]
    limit = PART_LOGITS.get(platform(), PART_LOGITS_ELSEWHERE)
    sets = max(limit // max(H * L * M, 1), 1)
    queries = max(limit // max(H * M, 1), 1)
    attend = functools.partial(_attend, plan, allowed, scale)

    def by_queries(query, key, value, rows, columns):
        def some(x):
            return attend(x[0], key, value, x[1], columns)

        return _mapped(some, (query, rows), (3, 1), queries, 3)

    if queries < L:

        def one(x):
            x = by_queries(*(y[None] for y in x))
            return jax.tree.map(lambda y: y[0], x)

        arrays = (query, key, value, rows, columns)
        part = lax.map(one, arrays) if N > 1 else by_queries(*arrays)
    else:
        arrays = (query, key, value, rows, columns)
        part = _mapped(lambda x: attend(*x), arrays, (0,) * 5, sets, 0)

    def tokens_first(x):
        x = jnp.moveaxis(x, 3, 1)
        return x.reshape(N, L, H, x.shape[-1])

    return jax.tree.map(tokens_first, part)


def merge_parts(plan: Plan, parts: Sequence[Part], dtype) -> Array:
    """What attention over all the parts' keys gives: [..., H, V] in `dtype`."""
    normalizer = plan.normalizer
    level = functools.reduce(jnp.maximum, [part.level for part in parts])
    null = normalizer.null_logit
    if null is not None:
        null = jnp.full_like(level, null)
        if normalizer.shifted:
            level = jnp.maximum(level, normalizer.level(null))
    y = total = 0.0
    for part in parts:
        factor = None
        if normalizer.shifted and (len(parts) > 1 or null is not None):
            factor = normalizer.rescale(part.level, level)
        y = y + (part.y if factor is None else part.y * factor)
        total = total + (part.total if factor is None else part.total * factor)
    if normalizer.normalized:
        if null is not None:
            shift = level if normalizer.shifted else None
            num_keys = (
                None if plan.seen is None else plan.seen[None, :, :, None].astype(level.dtype)
            )
            total = total + normalizer.score(null, shift, num_keys)
        y = y / jnp.where(total == 0, jnp.ones_like(total), total)
    return y.astype(dtype)


def _attend(plan, allowed, scale, query, key, value, rows, columns):
    """The part of [n, G, R, L, K] queries over [n, G, M, K] keys, all at once."""
    n, G, R, L, K = query.shape
    dtype = accumulator_dtype(query)
    dots = {"precision": plan.precision, "preferred_element_type": dtype}
    logits = jnp.einsum("ngqk,ngmk->ngqm", query.reshape(n, G, R * L, K), key, **dots)
    logits = logits.reshape(n, G, R, L, logits.shape[-1]) * scale.astype(dtype)
    places = rows[:, None, None, :, None], columns[:, None, None, None, :]
    logits = jnp.where(allowed(*places), logits, jnp.full((), -jnp.inf, dtype))
    level = None
    if plan.normalizer.shifted:
        # a finite floor: rows that attend to nothing stay at 0
        floor = jnp.finfo(dtype).min
        level = jnp.max(plan.normalizer.level(logits), -1, keepdims=True, initial=floor)
        level = lax.stop_gradient(level)
    num_keys = None
    if plan.seen is not None:
        num_keys = jnp.take(plan.seen, rows, axis=0, mode="clip")  # [n, L, H]
        num_keys = jnp.moveaxis(num_keys, -1, 1).reshape(n, G, R, L, 1).astype(dtype)
    scores = plan.normalizer.score(logits, level, num_keys)
    total = jnp.sum(scores, -1, keepdims=True)
    weights = scores.astype(value.dtype).reshape(n, G, R * L, scores.shape[-1])
    y = jnp.einsum("ngqm,ngmv->ngqv", weights, value, **dots)
    y = y.reshape(n, G, R, L, y.shape[-1])
    return Part(y, total, jnp.zeros_like(total) if level is None else level)


def _mapped(function, arrays, axes, size, out_axis):
    """function over slices of at most `size` along `axes`, recomputed backwards; joined again."""
    length = arrays[0].shape[axes[0]]
    if length <= size:
        return function(arrays)
    steps = math.ceil(length / size)
    size = math.ceil(length / steps)

    def cut(x, axis):
        x = _pad(x, axis, steps * size - length)
        x = x.reshape(*x.shape[:axis], steps, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    parts = lax.map(jax.checkpoint(function), tuple(map(cut, arrays, axes)))

    def join(x):
        x = jnp.moveaxis(x, 0, out_axis)
        x = lax.collapse(x, out_axis, out_axis + 2)
        return lax.slice_in_dim(x, 0, length, axis=out_axis)

    return jax.tree.map(join, parts)


def _pad(x, axis, after):
    return jnp.pad(x, [(0, after if i == axis else 0) for i in range(x.ndim)]) if after else x


# Layout of the tokens.


def take_heads(x: Array, heads: Sequence[int], num_heads: int) -> Array:
    """The key heads [..., G', K] of x [..., G, K] that some of `num_heads` query heads read."""
    groups = x.shape[-2]
    chosen = [head // (num_heads // groups) for head in heads]
    unique = list(dict.fromkeys(chosen))
    shared = len(heads) // len(unique)
    if chosen == [group for group in unique for _ in range(shared)]:
        chosen = unique
    if chosen == list(range(groups)):
        return x
    return x[..., jnp.asarray(chosen, jnp.int32), :]


def blocks_of(x: Array, size: int) -> Array:
    """[B, T, H, K] -> [B, R, size, H, K], the last block filled with zeros."""
    x = _pad(x, 1, -x.shape[1] % size)
    return x.reshape(x.shape[0], x.shape[1] // size, size, *x.shape[2:])


def places_of(batch: int, length: int, size: int) -> Array:
    """Where the tokens of `blocks_of` stand, [B, R, size]; padding stands at `length` and on."""
    places = jnp.arange(length + -length % size, dtype=jnp.int32).reshape(1, -1, size)
    return jnp.broadcast_to(places, (batch, *places.shape[1:]))


def with_neighbours(x: Array, before: int, after: int, fill: int = 0) -> Array:
    """[B, R, size, ...] -> [B, R, (before + 1 + after) size, ...]: each block with those around."""
    R = x.shape[1]
    edges = [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, edges, constant_values=fill)
    shifted = [lax.slice_in_dim(x, i, i + R, axis=1) for i in range(before + 1 + after)]
    return jnp.concatenate(shifted, axis=2)


def unblocked(part: Part, batch: int, length: int) -> Part:
    """A part of [B R, size, ...] blocks as [B, T, ...] tokens."""

    def tokens(x):
        blocks = -(-length // x.shape[1])
        return x.reshape(batch, blocks * x.shape[1], *x.shape[2:])[:, :length]

    return jax.tree.map(tokens, part)


def join_heads(parts: Sequence[tuple[Sequence[int], Array]]) -> Array:
    """Outputs [..., h, V] of disjoint sets of heads, as [..., H, V] in the order of the heads."""
    order = [head for heads, _ in parts for head in heads]
    y = jnp.concatenate([y for _, y in parts], axis=-2)
    if order == sorted(order):
        return y
    places = sorted(range(len(order)), key=order.__getitem__)
    return y[..., jnp.asarray(places, jnp.int32), :]


def attend_with_prefix(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    scale: Array,
    prefix: int,
    is_causal: bool,
    pattern_parts: Callable[[Plan, Array, Array, Array, Array], list[Part]],
) -> Array:
    """[B, T, H, V]: the first tokens read all and are read by all, the others by a pattern.

    Args:
      plan: of `make_plan`.
      query: [B, T, H, K].
      key: [B, T, G, K].
      value: [B, T, G, V].
      scale: scalar factor of the logits.
      prefix: how many tokens stand outside the pattern.
      is_causal: no token reads a later one.
      pattern_parts: the parts of the pattern by (plan, query, key, value, scale), for the tokens
        behind the prefix.
    """
    B, T, H = query.shape[:3]
    prefix = min(prefix, T)

    def with_counts(seen):
        return dataclasses.replace(plan, seen=seen) if plan.normalizer.counts_keys else plan

    def places(start, stop):
        line = jnp.arange(start, stop, dtype=jnp.int32)[None]
        return jnp.broadcast_to(line, (B, stop - start))

    def past(i, j):
        return j <= i

    def any_pair(i, j):
        return jnp.ones_like(j <= i)

    outputs = []
    if prefix:
        read = prefix if is_causal else T
        seen = jnp.arange(1, prefix + 1)[:, None] if is_causal else jnp.full((prefix, 1), T)
        counted = with_counts(jnp.broadcast_to(seen, (prefix, H)))
        part = attend_part(
            counted,
            query[:, :prefix],
            key[:, :read],
            value[:, :read],
            scale,
            places(0, prefix),
            places(0, read),
            past if is_causal else any_pair,
        )
        outputs.append(merge_parts(counted, [part], value.dtype))
    if prefix < T:
        behind = T - prefix
        counted = plan
        if plan.normalizer.counts_keys:
            nothing = jnp.zeros((1, behind, H, 1), scale.dtype)
            counts = pattern_parts(Plan(_Ones()), nothing, nothing, nothing, scale)
            seen = prefix + sum(part.total for part in counts)[0, ..., 0]
            counted = with_counts(jnp.maximum(lax.stop_gradient(seen), 1))
        arrays = (x[:, prefix:] for x in (query, key, value))
        parts = pattern_parts(counted, *arrays, scale)
        if prefix:
            part = attend_part(
                counted,
                query[:, prefix:],
                key[:, :prefix],
                value[:, :prefix],
                scale,
                places(0, behind),
                places(0, prefix),
                any_pair,
            )
            parts = [*parts, part]
        outputs.append(merge_parts(counted, parts, value.dtype))
    return jnp.concatenate(outputs, axis=1) if len(outputs) > 1 else outputs[0]


def flat_batch(query, key, value):
    """Checked arrays of self-attention with one batch axis, and the axes that it stands for."""
    check_rank(3, query=query, key=key, value=value)
    *batch, T = query.shape[:-2]
    check_shape("key", key, (*batch, T, *key.shape[-2:]), "[*B, T, G, K] beside query")
    query, key, _, _ = check_arrays(query, key, value, None, None)
    return batch, *(x.reshape(math.prod(batch), *x.shape[-3:]) for x in (query, key, value))


def step_at(state, query, key, value, places, masks, scale, normalizer, precision):
    """One token over the cache's `places` [M] that `masks` [H, M] allow; shared by patterns."""
    check_rank(2, query=query, key=key, value=value)
    *batch, S, G, K = state.key.shape
    H = query.shape[-2]
    check_shape("query", query, (*batch, H, K), "[*B, H, K]")
    check_shape("key", key, (*batch, G, K), "[*B, G, K]")
    check_shape("value", value, (*batch, G, state.value.shape[-1]), "[*B, G, V]")
    dtype, position = value.dtype, state.position
    state = extend_kv_cache(state, key[..., None, :, :], value[..., None, :, :])
    places = jnp.clip(places, 0, S - 1)
    keys, values = (jnp.take(x, places, axis=-3) for x in (state.key, state.value))
    query, keys, _, _ = check_arrays(query[..., None, :, :], keys, values, None, None)
    query, keys, values = (
        x.reshape(math.prod(batch), *x.shape[-3:]) for x in (query, keys, values)
    )
    N, M = keys.shape[:2]
    plan = make_plan(normalizer, K, precision)
    if plan.normalizer.counts_keys:
        seen = jnp.maximum(jnp.sum(masks, -1, dtype=jnp.int32), 1)[None]
        plan = dataclasses.replace(plan, seen=seen)
    part = attend_part(
        plan,
        query,
        keys,
        values,
        scale_of(scale, query),
        jnp.zeros((N, 1), jnp.int32),
        jnp.zeros((N, M), jnp.int32),
        lambda i, j: masks.reshape(1, G, H // G, 1, M),
    )
    y = merge_parts(plan, [part], dtype).reshape(*batch, H, values.shape[-1])
    return jnp.where(position < S, y, jnp.full_like(y, jnp.nan)), state

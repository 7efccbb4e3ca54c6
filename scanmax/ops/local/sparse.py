"""Factorised sparse attention (strided and fixed patterns) in gather form: O(T sqrt T)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from scanmax.ops.attention.cache import KVCache
from scanmax.ops.attention.dot_product import attention_matrix, scale_of
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.attention.parts import (
    attend_part,
    attend_with_prefix,
    blocks_of,
    flat_batch,
    join_heads,
    make_plan,
    places_of,
    step_at,
    take_heads,
    unblocked,
    with_neighbours,
)
from scanmax.ops.contract import check_choice, check_rank, op, require

PATTERNS = ("strided", "fixed")
COMBINERS = ("merged", "heads", "local", "summary")
STATIC = (
    *("pattern", "stride", "summary", "subblocks", "combine", "prefix_tokens"),
    *("normalizer", "precision"),
)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which pairs (i, j) of places behind the prefix are read; i and j broadcast."""

    kind: str
    stride: int
    summary: int
    subblocks: int
    is_causal: bool

    def local(self, i, j):
        """The first pattern: the tokens next to i, or those of its block."""
        if self.kind == "strided":
            near = (i - j < self.stride) & (j - i < self.stride)
        else:
            near = i // self.stride == j // self.stride
        return near & (j <= i) if self.is_causal else near

    def far(self, i, j, subblock):
        """The second pattern: the tokens at whole strides, or the last ones of every block."""
        if self.kind == "strided":
            far = (i - j) % self.stride == 0
        else:
            last = self.stride - subblock * self.summary
            place = j % self.stride
            far = (place >= last - self.summary) & (place < last) & (i >= 0)
        return far & (j <= i) if self.is_causal else far

    def subblock(self, head: int) -> int:
        """Which of the blocks' last tokens a head reads."""
        return head % self.subblocks if self.kind == "fixed" else 0


def _pattern(pattern, stride, summary, subblocks, is_causal, length, prefix_tokens):
    check_choice("pattern", pattern, PATTERNS)
    if stride is None:
        stride = max(math.isqrt(max(length - prefix_tokens, 1) - 1) + 1, 1)
        stride = max(stride, summary * subblocks)
    for name, size in (("stride", stride), ("summary", summary), ("subblocks", subblocks)):
        require(size >= 1, f"{name}={size}; expected at least 1.")
    require(prefix_tokens >= 0, f"prefix_tokens={prefix_tokens}; expected at least 0.")
    require(
        pattern == "strided" or summary * subblocks <= stride,
        f"summary={summary} tokens for each of subblocks={subblocks} do not fit stride={stride}.",
    )
    return Pattern(pattern, stride, summary, subblocks, is_causal)


def _heads_by_kind(combine, num_heads):
    """(heads, reads locally, reads far) of each group of heads."""
    check_choice("combine", combine, COMBINERS)
    heads = list(range(num_heads))
    if combine == "heads":
        half = (num_heads + 1) // 2
        groups = [(heads[:half], True, False), (heads[half:], False, True)]
        return [group for group in groups if group[0]]
    return [(heads, combine != "summary", combine != "local")]


@op("is_causal", *STATIC)
def sparse_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T G V"],
    *,
    pattern: str = "strided",
    stride: int | None = None,
    summary: int = 1,
    subblocks: int = 1,
    combine: str = "merged",
    is_causal: bool = True,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention over two sparse patterns that connect all tokens in two hops.

        strided:  A_i = {j: |i - j| < l},              B_i = {j: l divides i - j}
        fixed:    A_i = {j: floor(j / l) = floor(i / l)},   B_i = {j: j mod l >= l - c}

    with j <= i where `is_causal`. A is as wide as in the released code: l tokens, i among them (the
    paper's set starts one earlier). Keys are gathered by blocks, columns and summary tokens; no
    logit outside the patterns' blocks is made, so l near sqrt(T) costs O(T sqrt(T)) in time, and
    O(T) in memory, backwards too. Any T: the last block may be short.

    The combiners: "merged" is one softmax over the union of A and B, each key once (the fixed
    pattern of the released code); "heads" gives A to the first half of the heads and B to the rest;
    "local" and "summary" are A or B alone, for layers that alternate. B alone of the causal fixed
    pattern leaves the tokens before the first summary with nothing to read: they give 0.

    Args:
      query: [*B, T, H, K].
      key: [*B, T, G, K], where G divides H.
      value: [*B, T, G, V].
      pattern: "strided" or "fixed".
      stride: l; None is the square root of the tokens behind the prefix, rounded up. On an image
        the natural one is the width of its rows.
      summary: c, summary tokens per block of the fixed pattern; the strided one has none.
      subblocks: distinct sets of c summary tokens, dealt to the heads in turn: head h reads those
        that end (h mod subblocks) c tokens before the end of the block.
      combine: "merged", "heads", "local" or "summary".
      is_causal: token i reads tokens up to i only.
      prefix_tokens: first tokens outside the pattern: all read them, they read all (where causal,
        those before).
      scale: scalar factor of the logits, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer` of one pass.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(6.0).reshape(6, 1, 1)  # [T, H, K]
      >>> ops.sparse_attention(0 * x, 0 * x, x, stride=2)[:, 0, 0]  # means of what is read
      Array([0.  , 0.5 , 1.  , 2.  , 2.25, 3.25], dtype=float32)

    Reference: sparse-transformer
    """
    batch, query, key, value = flat_batch(query, key, value)
    T, H = query.shape[1:3]
    shape = _pattern(pattern, stride, summary, subblocks, is_causal, T, prefix_tokens)
    plan = make_plan(normalizer, query.shape[-1], precision)
    scale = scale_of(scale, query)
    outputs = []
    for heads, local, far in _heads_by_kind(combine, H):

        def pattern_parts(plan, *arrays, heads=heads, local=local, far=far):
            parts = [_local_part(plan, shape, *arrays)] if local else []
            return [*parts, _far_part(plan, shape, heads, local, *arrays)] if far else parts

        y = attend_with_prefix(
            plan,
            take_heads(query, heads, H),
            take_heads(key, heads, H),
            take_heads(value, heads, H),
            scale,
            prefix_tokens,
            is_causal,
            pattern_parts,
        )
        outputs.append((heads, y))
    y = join_heads(outputs)
    return y.reshape(*batch, *y.shape[1:])


def _local_part(plan, shape, query, key, value, scale):
    """A: each block of l queries with its block of keys, and the neighbours it reads."""
    B, T = query.shape[:2]
    size = min(shape.stride, T)
    before = 1 if shape.kind == "strided" and size < T else 0
    after = 0 if shape.is_causal else before
    rows = places_of(B, T, size)
    columns = with_neighbours(rows, before, after, fill=T)
    key, value = (with_neighbours(blocks_of(x, size), before, after) for x in (key, value))

    def flat(x):
        return lax.collapse(x, 0, 2)

    part = attend_part(
        plan,
        *(flat(x) for x in (blocks_of(query, size), key, value)),
        scale,
        flat(rows),
        flat(columns),
        lambda i, j: shape.local(i, j) & (j < T),
    )
    return unblocked(part, B, T)


def _far_part(plan, shape, heads, without_local, query, key, value, scale):
    """B, without what A has where both are read."""
    B, T, H = query.shape[:3]

    def allowed(subblock):
        def pairs(i, j):
            read = shape.far(i, j, subblock) & (j < T)
            return read & ~shape.local(i, j) if without_local else read

        return pairs

    places = places_of(B, T, shape.stride)  # [B, R, l]
    grids = [blocks_of(x, shape.stride) for x in (query, key, value)]
    if shape.kind == "strided":
        # a column of the grid reads itself
        columns = (jnp.swapaxes(x, 1, 2) for x in grids)  # [B, l, R, H, K]
        query, key, value = (lax.collapse(x, 0, 2) for x in columns)
        places = lax.collapse(jnp.swapaxes(places, 1, 2), 0, 2)
        part = attend_part(plan, query, key, value, scale, places, places, allowed(0))

        def by_rows(x):
            x = jnp.swapaxes(x.reshape(B, shape.stride, *x.shape[1:]), 1, 2)
            return lax.collapse(x, 1, 3)[:, :T]

        return jax.tree.map(by_rows, part)

    rows = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    parts, order = [], []
    for subblock in range(shape.subblocks):
        own = [n for n, head in enumerate(heads) if shape.subblock(head) == subblock]
        if not own:
            continue
        last = shape.stride - subblock * shape.summary
        columns = lax.collapse(places[:, :, last - shape.summary : last], 1)
        summaries = (take_heads(x, own, H)[:, :, last - shape.summary : last] for x in grids[1:])
        own_plan = plan
        if plan.seen is not None:
            own_plan = dataclasses.replace(plan, seen=plan.seen[:, jnp.asarray(own, jnp.int32)])
        part = attend_part(
            own_plan,
            take_heads(query, own, H),
            *(lax.collapse(x, 1, 3) for x in summaries),
            scale,
            rows,
            columns,
            allowed(subblock),
        )
        parts.append(part)
        order.append(own)
    return jax.tree.map(lambda *xs: join_heads(list(zip(order, xs))), *parts)


@op("length", "num_heads", "is_causal", *STATIC[:-2])
def sparse_pattern(
    length: int,
    num_heads: int = 1,
    *,
    pattern: str = "strided",
    stride: int | None = None,
    summary: int = 1,
    subblocks: int = 1,
    combine: str = "merged",
    is_causal: bool = True,
    prefix_tokens: int = 0,
) -> Bool[Array, "H T T"]:
    """The pairs that `sparse_attention` reads, as a boolean mask.

        M_hij = j in A_i and head h reads A, or j in B_i and head h reads B

    Args:
      length: T, static.
      num_heads: H, static.
      pattern: as in `sparse_attention`, like all that follow.
      stride: l.
      summary: c.
      subblocks: distinct sets of summary tokens.
      combine: "merged", "heads", "local" or "summary".
      is_causal: token i reads tokens up to i only.
      prefix_tokens: first tokens outside the pattern.

    Returns:
      [H, T, T], True where query i of head h reads key j.

    Raises:
      ValueError: an option that does not fit.

    Example:
      >>> from scanmax import ops
      >>> ops.sparse_pattern(5, pattern="fixed", stride=2)[0].astype(int)
      Array([[1, 0, 0, 0, 0],
             [1, 1, 0, 0, 0],
             [0, 1, 1, 0, 0],
             [0, 1, 1, 1, 0],
             [0, 1, 0, 1, 1]], dtype=int32)

    Reference: sparse-transformer
    """
    shape = _pattern(pattern, stride, summary, subblocks, is_causal, length, prefix_tokens)
    places = jnp.arange(length, dtype=jnp.int32) - prefix_tokens
    i, j = places[:, None], places[None, :]
    return _head_masks(shape, combine, num_heads, i, j)


def _head_masks(shape, combine, num_heads, i, j):
    """[H, T, S]: what each head reads; i [T, 1] and j [1, S] are negative in the prefix."""
    outside = (i < 0) | (j < 0)
    outside = outside & (j <= i) if shape.is_causal else outside
    inside = (i >= 0) & (j >= 0)
    masks = {}
    for heads, local, far in _heads_by_kind(combine, num_heads):
        for head in heads:
            read = outside
            if local:
                read = read | (inside & shape.local(i, j))
            if far:
                read = read | (inside & shape.far(i, j, shape.subblock(head)))
            masks[head] = read
    return jnp.stack([masks[head] for head in range(num_heads)])


@op("is_causal", *STATIC)
def sparse_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    *,
    pattern: str = "strided",
    stride: int | None = None,
    summary: int = 1,
    subblocks: int = 1,
    combine: str = "merged",
    is_causal: bool = True,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The weights by which `sparse_attention` mixes the values, zeros included: for small T.

        P = normalizer(scale q k^T, where the pattern allows)

    Args:
      query: [*B, T, H, K].
      key: [*B, T, G, K], where G divides H.
      pattern: as in `sparse_attention`, like all that follow.
      stride: l.
      summary: c.
      subblocks: distinct sets of summary tokens.
      combine: "merged", "heads", "local" or "summary".
      is_causal: token i reads tokens up to i only.
      prefix_tokens: first tokens outside the pattern.
      scale: scalar factor of the logits.
      normalizer: a name or a `Normalizer`.
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.zeros((4, 1, 1))  # [T, H, K]
      >>> ops.sparse_attention_matrix(x, x, stride=2)[0, 3]
      Array([0.        , 0.33333334, 0.33333334, 0.33333334], dtype=float32)

    Reference: sparse-transformer
    """
    check_rank(3, query=query, key=key)
    mask = sparse_pattern(
        query.shape[-3],
        query.shape[-2],
        pattern=pattern,
        stride=stride,
        summary=summary,
        subblocks=subblocks,
        combine=combine,
        is_causal=is_causal,
        prefix_tokens=prefix_tokens,
    )
    return attention_matrix(
        query, key, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


@op(*STATIC)
def sparse_attention_step(
    state: KVCache,
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B G K"],
    value: Float[Array, "*B G V"],
    *,
    pattern: str = "strided",
    stride: int | None = None,
    summary: int = 1,
    subblocks: int = 1,
    combine: str = "merged",
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> tuple[Float[Array, "*B H V"], KVCache]:
    """One token of causal `sparse_attention`: reads O(sqrt S) places of the cache.

        S_t = S_{t-1}, (k_t, v_t);   y_t = attention(q_t, S_t where the pattern allows)

    Args:
      state: the cache, from `init_kv_cache`, `extend_kv_cache` or the step before.
      query: [*B, H, K].
      key: [*B, G, K].
      value: [*B, G, V].
      pattern: as in `sparse_attention`, like all that follow.
      stride: l; None is the square root of the cache's size, not of the tokens so far.
      summary: c.
      subblocks: distinct sets of summary tokens.
      combine: "merged", "heads", "local" or "summary".
      prefix_tokens: first tokens outside the pattern.
      scale: scalar factor of the logits.
      normalizer: a name or a `Normalizer` of one pass.
      precision: of every matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the new cache); NaN on a cache that was full already.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> cache = ops.init_kv_cache((), max_length=8, num_heads=1, key_dim=2)
      >>> token = jnp.ones((1, 2))
      >>> y, cache = ops.sparse_attention_step(cache, token, token, 3 * token, stride=2)
      >>> y
      Array([[3., 3.]], dtype=float32)

    Reference: sparse-transformer
    """
    S = state.key.shape[-3]
    shape = _pattern(pattern, stride, summary, subblocks, True, S, prefix_tokens)
    stride, blocks = shape.stride, -(-max(S - prefix_tokens, 1) // shape.stride)
    i = state.position - prefix_tokens
    if shape.kind == "strided":
        near = i - jnp.arange(stride, dtype=jnp.int32)
        far = i % stride + stride * jnp.arange(blocks, dtype=jnp.int32)
    else:
        near = i // stride * stride + jnp.arange(stride, dtype=jnp.int32)
        ends = jnp.arange(stride - summary * subblocks, stride, dtype=jnp.int32)
        far = (stride * jnp.arange(blocks, dtype=jnp.int32)[:, None] + ends[None]).reshape(-1)
    # a place is read once: from the second set only where the first does not hold it
    far = jnp.where(shape.local(i, far), -1 - prefix_tokens, far)
    outside = jnp.arange(prefix_tokens, dtype=jnp.int32) - prefix_tokens
    near, far = (jnp.where(x < 0, -1 - prefix_tokens, x) for x in (near, far))
    places = jnp.concatenate([outside, near, far])
    masks = _head_masks(shape, combine, query.shape[-2], i[None, None], places[None])[:, 0]
    masks = masks & (places >= -prefix_tokens)[None]
    return step_at(
        state, query, key, value, places + prefix_tokens, masks, scale, normalizer, precision
    )

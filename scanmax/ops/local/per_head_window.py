"""Windows of each head's own length, with sinks: cost linear in the tokens."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

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
from scanmax.ops.contract import check_rank, op, require

# A length, or (alpha, beta) for alpha + beta N.
Span = int | tuple[float, float]
STATIC = ("windows", "sinks", "length", "prefix_tokens", "normalizer", "precision")
# Blocks of queries are a quarter of the window, but not smaller than this: products of fewer rows
# cost as much.
SMALLEST_BLOCK = 32


def _spans(windows, num_heads, length):
    """The window of each head in tokens."""
    require(
        len(windows) == num_heads,
        f"windows={windows} has {len(windows)} entries; expected one per head, {num_heads}.",
    )
    spans = [
        math.floor(span[0] + span[1] * length) if isinstance(span, tuple) else span
        for span in windows
    ]
    for span, window in zip(spans, windows):
        require(
            span >= 1 or isinstance(window, tuple),
            f"windows={windows} holds {window}; expected at least 1 token.",
        )
    return [max(span, 1) for span in spans]


def _check(sinks, prefix_tokens):
    for name, size in (("sinks", sinks), ("prefix_tokens", prefix_tokens)):
        require(size >= 0, f"{name}={size}; expected at least 0.")


@op("is_causal", *STATIC)
def per_head_window_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T G V"],
    *,
    windows: tuple[Span, ...],
    sinks: int = 0,
    is_causal: bool = True,
    length: int | None = None,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention in which every head has a window of its own, and all see the first tokens.

        head h, query i reads {j: |i - j| < w_h} and {j: j < sinks},    w_h = alpha_h + beta_h N

    with j <= i where `is_causal`. Heads of equal windows are evaluated together, in blocks of
    queries over the few blocks of keys that their window touches, the sinks as further keys: the
    cost of a head is T (1.25 w_h + sinks), memory is linear in T, backwards too. The released
    kernels round windows and sinks to blocks of 64 tokens; these are exact.

    Args:
      query: [*B, T, H, K].
      key: [*B, T, G, K], where G divides H.
      value: [*B, T, G, V].
      windows: one entry per head, w_h tokens (the query's own counted), or (alpha_h, beta_h), the
        rule by which a window grows with the input: floor(alpha_h + beta_h N), at least 1.
      sinks: first tokens that every query reads besides its window (where causal, from them on).
      is_causal: token i reads tokens up to i only.
      length: N of the rule; None is T.
      prefix_tokens: first tokens outside windows and sinks: all read them, they read all (where
        causal, those before).
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
      >>> x = jnp.tile(jnp.arange(5.0)[:, None, None], (1, 2, 1))  # [T, H, K]
      >>> y = ops.per_head_window_attention(0 * x, 0 * x, x, windows=(1, 2), sinks=1)
      >>> y[..., 0].T
      Array([[0.       , 0.5      , 1.       , 1.5      , 2.       ],
             [0.       , 0.5      , 1.       , 1.6666666, 2.3333333]], dtype=float32)

    Reference: moa-sparse-attention
    """
    batch, query, key, value = flat_batch(query, key, value)
    T, H = query.shape[1:3]
    _check(sinks, prefix_tokens)
    spans = _spans(windows, H, T if length is None else length)
    plan = make_plan(normalizer, query.shape[-1], precision)
    scale = scale_of(scale, query)
    outputs = []
    for span in sorted(set(spans)):
        heads = [head for head, own in enumerate(spans) if own == span]

        def pattern_parts(plan, *arrays, span=span):
            parts = [_band_part(plan, span, is_causal, *arrays)]
            return [*parts, _sink_part(plan, span, sinks, is_causal, *arrays)] if sinks else parts

        arrays = (take_heads(x, heads, H) for x in (query, key, value))
        y = attend_with_prefix(plan, *arrays, scale, prefix_tokens, is_causal, pattern_parts)
        outputs.append((heads, y))
    y = join_heads(outputs)
    return y.reshape(*batch, *y.shape[1:])


def _near(i, j, span, is_causal):
    near = (i - j < span) & (j - i < span)
    return near & (j <= i) if is_causal else near


def _band_part(plan, span, is_causal, query, key, value, scale):
    B, T = query.shape[:2]
    size = min(max(-(-(span - 1) // 4), SMALLEST_BLOCK), T)
    before = min(-(-(span - 1) // size), -(-T // size) - 1)
    after = 0 if is_causal else before
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
        lambda i, j: _near(i, j, span, is_causal) & (j < T),
    )
    return unblocked(part, B, T)


def _sink_part(plan, span, sinks, is_causal, query, key, value, scale):
    """The first tokens, where the window does not hold them."""
    B, T = query.shape[:2]
    line = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))

    def allowed(i, j):
        read = ~_near(i, j, span, is_causal)
        return read & (j <= i) if is_causal else read

    arrays = (query, key[:, :sinks], value[:, :sinks], scale)
    return attend_part(plan, *arrays, line, line[:, :sinks], allowed)


def _masks(spans, sinks, is_causal, i, j):
    """[H, T, S]: what each head reads; i [T, 1] and j [1, S] are negative in the prefix."""
    past = (j <= i) if is_causal else jnp.ones_like(j <= i)
    first = (i < 0) | (j < sinks)
    return jnp.stack([past & (first | _near(i, j, span, is_causal)) for span in spans])


@op("is_causal", *STATIC)
def per_head_window_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T G K"],
    *,
    windows: tuple[Span, ...],
    sinks: int = 0,
    is_causal: bool = True,
    length: int | None = None,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The weights by which `per_head_window_attention` mixes the values: for small T.

        P = normalizer(scale q k^T, where |i - j| < w_h or j < sinks)

    Args:
      query: [*B, T, H, K].
      key: [*B, T, G, K], where G divides H.
      windows: as in `per_head_window_attention`, like all that follow.
      sinks: first tokens that every query reads.
      is_causal: token i reads tokens up to i only.
      length: N of the rule; None is T.
      prefix_tokens: first tokens outside windows and sinks.
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
      >>> x = jnp.zeros((3, 1, 1))  # [T, H, K]
      >>> ops.per_head_window_attention_matrix(x, x, windows=(2,))[0]
      Array([[1. , 0. , 0. ],
             [0.5, 0.5, 0. ],
             [0. , 0.5, 0.5]], dtype=float32)

    Reference: moa-sparse-attention
    """
    check_rank(3, query=query, key=key)
    _check(sinks, prefix_tokens)
    T, H = query.shape[-3:-1]
    places = jnp.arange(T, dtype=jnp.int32) - prefix_tokens
    spans = _spans(windows, H, T if length is None else length)
    mask = _masks(spans, sinks, is_causal, places[:, None], places[None, :])
    return attention_matrix(
        query, key, mask=mask, scale=scale, normalizer=normalizer, precision=precision
    )


@op(*STATIC)
def per_head_window_attention_step(
    state: KVCache,
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B G K"],
    value: Float[Array, "*B G V"],
    *,
    windows: tuple[Span, ...],
    sinks: int = 0,
    length: int | None = None,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> tuple[Float[Array, "*B H V"], KVCache]:
    """One token of causal `per_head_window_attention`: reads sinks and the widest window only.

        S_t = S_{t-1}, (k_t, v_t);   y_t = attention(q_t, S_t where head h reads)

    Args:
      state: the cache, from `init_kv_cache`, `extend_kv_cache` or the step before.
      query: [*B, H, K].
      key: [*B, G, K].
      value: [*B, G, V].
      windows: as in `per_head_window_attention`, like all that follow.
      sinks: first tokens that every query reads.
      length: N of the rule; None is the size of the cache, not the tokens so far.
      prefix_tokens: first tokens outside windows and sinks.
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
      >>> y, cache = ops.per_head_window_attention_step(
      ...     cache, token, token, 3 * token, windows=(4,)
      ... )
      >>> y
      Array([[3., 3.]], dtype=float32)

    Reference: moa-sparse-attention
    """
    check_rank(2, query=query)
    _check(sinks, prefix_tokens)
    S = state.key.shape[-3]
    spans = _spans(windows, query.shape[-2], S if length is None else length)
    first = min(prefix_tokens + sinks, S)
    widest = min(max(spans), S)
    i = state.position
    near = i - jnp.arange(widest, dtype=jnp.int32)
    # a place is read once: among the first tokens, else in the window
    near = jnp.where(near < first, S, near)
    places = jnp.concatenate([jnp.arange(first, dtype=jnp.int32), near])
    pair = (i[None, None] - prefix_tokens, places[None] - prefix_tokens)
    masks = _masks(spans, sinks, True, *pair)[:, 0] & (places < S)[None]
    return step_at(state, query, key, value, places, masks, scale, normalizer, precision)

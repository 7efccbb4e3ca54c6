"""Multi-head latent attention: keys and values of all heads from one narrow vector a token.

The up-projections are linear, so that they may stand on either side of the sum over tokens. The
expanded form makes keys and values of every head and attends as ever: the cheaper one where whole
sequences are read. The absorbed form takes queries and outputs through them instead, and attends to
the latents themselves, which are one head's keys and values for all: the cheaper one where few
tokens read a long cache, which holds nothing else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.attention.cache import attend_so_far, written
from scanmax.ops.attention.dot_product import (
    Window,
    attention_matrix,
    check_arrays,
    check_lengths,
    check_segments,
    clear_hidden,
    dot_product_attention,
    within,
)
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)
from scanmax.ops.segments import quarantine, spoil, spoil_rows

FORMS = (None, "expanded", "absorbed")


class LatentCache(NamedTuple):
    """Latents and shared keys [*B, S, C + R], side by side, and how many tokens they are of."""

    latent: Float[Array, "*B S C+R"]
    position: Int[Array, ""]


@op(
    "is_causal",
    "normalizer",
    "logits_soft_cap",
    "local_window_size",
    "form",
    "chunk_size",
    "precision",
    "implementation",
)
def latent_attention(
    query: Float[Array, "*B T H K"],
    query_rotary: Float[Array, "*B T H R"],
    latent: Float[Array, "*B S C"],
    key_rotary: Float[Array, "*B S R"],
    key_up: Float[Array, "C H K"],
    value_up: Float[Array, "C H V"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    query_seq_lengths: Int[Array, "*B"] | None = None,
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    logits_soft_cap: float | None = None,
    local_window_size: Window = None,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
    implementation=None,
) -> Float[Array, "*B T H V"]:
    """Attention to keys and values that are up-projected from latents shared by all heads.

        k_h = [c U_h, r];   v_h = c W_h;   y_h = normalizer(scale [q_h, p_h] k_h^T) v_h     expanded
            = (normalizer(scale [q_h U_h^T, p_h] [c, r]^T) c) W_h                           absorbed

    with queries q and p, latents c and the shared key r, of which p and r carry positions: turn
    them by `rotary` first.

    Args:
      query: q [*B, T, H, K], compared with what the latents become.
      query_rotary: p [*B, T, H, R]; R may be 0.
      latent: c [*B, S, C].
      key_rotary: r [*B, S, R], one for all heads.
      key_up: U [C, H, K].
      value_up: W [C, H, V].
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits; None is (K + R) ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: as in `dot_product_attention`, like all that follow up to the soft cap.
      query_seq_lengths: [*B] integers; later queries give 0.
      key_value_seq_lengths: [*B] integers; later latents are masked out.
      segment_ids: [*B, T] integers, T = S; no token reads another sequence.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed around each query.
      form: "expanded" or "absorbed"; None is what takes fewer multiply-adds, which is "absorbed"
        for few queries of many keys.
      chunk_size: the largest block of logits, one integer or (queries, keys): the logits of whole
        sequences never stand in memory then. None: as `dot_product_attention` decides.
      precision: of every matrix product.
      implementation: of the attention inside, as in `dot_product_attention`.

    Returns:
      [*B, T, H, V] in the dtype of latent.

    Raises:
      ValueError: a shape, dtype or option that does not fit.
      NotImplementedError: a named implementation that cannot serve.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> query, latent, none = jnp.zeros((2, 1, 1)), jnp.array([[1.0], [3.0]]), jnp.zeros((2, 0))
      >>> up = jnp.array([[[2.0]]])  # [C, H, V]
      >>> y = ops.latent_attention(query, none[:, None], latent, none, up, up, is_causal=True)
      >>> y[:, 0, 0]
      Array([2., 4.], dtype=float32)

    Reference: muon-mla-moe
    """
    check_choice("form", form, FORMS)
    dtype = latent.dtype
    arrays = _checked(query, query_rotary, latent, key_rotary, key_up, value_up)
    query, query_rotary, latent, key_rotary, key_up, value_up = arrays
    *batch, T, _, K = query.shape
    S, C = latent.shape[-2:]
    R, V = key_rotary.shape[-1], value_up.shape[-1]
    query_seq_lengths = check_lengths("query_seq_lengths", query_seq_lengths, tuple(batch))
    read, spoiled, mask, asked = _readable(
        arrays[:4], bias, mask, query_seq_lengths, key_value_seq_lengths, segment_ids, is_causal
    )
    query, query_rotary, latent, key_rotary = read
    if form is None:
        absorbed, expanded = T * C * (K + V) + T * S * (2 * C + R), S * C * (K + V)
        form = "absorbed" if absorbed < expanded + T * S * (K + R + V) else "expanded"
    keywords = {
        "scale": (K + R) ** -0.5 if scale is None else scale,
        "is_causal": is_causal,
        "normalizer": get_normalizer(normalizer, K + R),
        "key_value_seq_lengths": key_value_seq_lengths,
        "segment_ids": segment_ids,
        "logits_soft_cap": logits_soft_cap,
        "local_window_size": local_window_size,
        "form": None if chunk_size is None else "chunked",
        "chunk_size": chunk_size,
        "precision": precision,
        "implementation": implementation,
    }
    if form == "absorbed":
        query = _through(query, key_up, precision, back=True)
        query = jnp.concatenate([query, query_rotary], -1)
        key = jnp.concatenate([latent, key_rotary], -1)[..., None, :]
        y = dot_product_attention(query, key, latent[..., None, :], bias, mask, **keywords)
        y = _through(y, value_up, precision)
    else:
        query = jnp.concatenate([query, query_rotary], -1)
        key = _keys(latent, key_rotary, key_up, precision)
        value = _of_heads(latent, value_up, precision)
        y = dot_product_attention(query, key, value, bias, mask, **keywords)
    if asked is not None:
        y = jnp.where(asked, y, jnp.zeros_like(y))
    return spoil(y, spoiled).astype(dtype)


@op("is_causal", "normalizer", "logits_soft_cap", "local_window_size", "precision")
def latent_attention_matrix(
    query: Float[Array, "*B T H K"],
    query_rotary: Float[Array, "*B T H R"],
    latent: Float[Array, "*B S C"],
    key_rotary: Float[Array, "*B S R"],
    key_up: Float[Array, "C H K"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    query_seq_lengths: Int[Array, "*B"] | None = None,
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    logits_soft_cap: float | None = None,
    local_window_size: Window = None,
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `latent_attention` mixes what the latents become.

        P_h = normalizer(scale (q_h (c U_h)^T + p_h r^T) + bias, mask)

    Args:
      query: q [*B, T, H, K].
      query_rotary: p [*B, T, H, R].
      latent: c [*B, S, C].
      key_rotary: r [*B, S, R].
      key_up: U [C, H, K].
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits; None is (K + R) ** -0.5.
      is_causal: as in `latent_attention`, like all that follow.
      normalizer: a name or a `Normalizer`.
      query_seq_lengths: [*B] integers.
      key_value_seq_lengths: [*B] integers.
      segment_ids: [*B, T] integers.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed around each query.
      precision: of the matrix products.

    Returns:
      [*B, H, T, S] in the dtype of query; 0 where a query may not attend.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> query, latent, none = jnp.zeros((2, 1, 1)), jnp.ones((2, 1)), jnp.zeros((2, 0))
      >>> up = jnp.ones((1, 1, 1))
      >>> ops.latent_attention_matrix(query, none[:, None], latent, none, up, is_causal=True)[0]
      Array([[1. , 0. ],
             [0.5, 0.5]], dtype=float32)

    Reference: muon-mla-moe
    """
    dtype = query.dtype
    *arrays, key_up, _ = _checked(query, query_rotary, latent, key_rotary, key_up, key_up)
    lengths = check_lengths("query_seq_lengths", query_seq_lengths, query.shape[:-3])
    read, spoiled, mask, asked = _readable(
        arrays, bias, mask, lengths, key_value_seq_lengths, segment_ids, is_causal
    )
    query, query_rotary, latent, key_rotary = read
    query = jnp.concatenate([query, query_rotary], -1)
    weights = attention_matrix(
        query,
        _keys(latent, key_rotary, key_up, precision),
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        segment_ids=segment_ids,
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )
    if asked is not None:
        weights = jnp.where(jnp.moveaxis(asked, -3, -2), weights, jnp.zeros_like(weights))
    return spoil_rows(weights, spoiled).astype(dtype)


@op("batch_shape", "max_length", "latent_dim", "rotary_dim", "dtype")
def init_latent_cache(
    batch_shape: tuple[int, ...],
    max_length: int,
    latent_dim: int,
    rotary_dim: int = 0,
    *,
    dtype=jnp.float32,
) -> LatentCache:
    """An empty cache for `latent_attention_step`: C + R numbers a token, however many the heads.

        S_0 = ()

    Args:
      batch_shape: the sizes *B.
      max_length: S, the tokens it has room for.
      latent_dim: C.
      rotary_dim: R.
      dtype: of what it holds.

    Returns:
      LatentCache(latent [*B, S, C + R], position), all zeros.

    Raises:
      ValueError: when max_length or latent_dim is less than 1, or rotary_dim less than 0.

    Example:
      >>> from scanmax import ops
      >>> ops.init_latent_cache((2,), max_length=8, latent_dim=4, rotary_dim=2).latent.shape
      (2, 8, 6)

    Reference: muon-mla-moe
    """
    for name, size in {"max_length": max_length, "latent_dim": latent_dim}.items():
        require(size >= 1, f"{name}={size}; expected at least 1.")
    require(rotary_dim >= 0, f"rotary_dim={rotary_dim}; expected at least 0.")
    shape = (*batch_shape, max_length, latent_dim + rotary_dim)
    return LatentCache(jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32))


@op()
def extend_latent_cache(
    state: LatentCache, latent: Float[Array, "*B T C"], key_rotary: Float[Array, "*B T R"]
) -> LatentCache:
    """Appends the latents and shared keys of several tokens: what a prefill leaves behind.

        S_{t+n} = S_t, [c_{t+1}, r_{t+1}], ..., [c_{t+n}, r_{t+n}]

    Args:
      state: the cache.
      latent: c [*B, T, C].
      key_rotary: r [*B, T, R], turned by their positions.

    Returns:
      The cache with T more tokens; their dtype becomes the cache's. Where it has no room they are
      written as NaN, as by `extend_kv_cache`.

    Raises:
      ValueError: when a shape does not fit, or T is more than an empty cache has room for.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> cache = ops.init_latent_cache((), max_length=8, latent_dim=4, rotary_dim=2)
      >>> int(ops.extend_latent_cache(cache, jnp.ones((3, 4)), jnp.ones((3, 2))).position)
      3

    Reference: muon-mla-moe
    """
    check_rank(2, latent=latent, key_rotary=key_rotary)
    *batch, S, width = state.latent.shape
    T, C = latent.shape[-2:]
    check_shape("latent", latent, (*batch, T, C), "[*B, T, C]")
    check_shape("key_rotary", key_rotary, (*batch, T, width - C), "[*B, T, R]")
    require(T <= S, f"latent has shape {latent.shape}: {T} tokens, and the cache has room for {S}.")
    dtype = state.latent.dtype
    new = jnp.concatenate([latent.astype(dtype), key_rotary.astype(dtype)], -1)
    position = state.position
    return LatentCache(
        written(state.latent, new, position, len(batch)),
        position + jnp.asarray(T, position.dtype),
    )


@op("normalizer", "logits_soft_cap", "local_window_size", "form", "precision")
def latent_attention_step(
    state: LatentCache,
    query: Float[Array, "*B H K"],
    query_rotary: Float[Array, "*B H R"],
    latent: Float[Array, "*B C"],
    key_rotary: Float[Array, "*B R"],
    key_up: Float[Array, "C H K"],
    value_up: Float[Array, "C H V"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    logits_soft_cap: float | None = None,
    local_window_size: Window = None,
    form: str | None = None,
    precision=None,
) -> tuple[Float[Array, "*B H V"], LatentCache]:
    """One token of causal latent attention: appends its latent, attends to all so far.

        S_t = S_{t-1}, [c_t, r_t];   y_t = latent_attention(q_t, p_t, S_t)

    Args:
      state: the cache, from `init_latent_cache`, `extend_latent_cache` or the step before.
      query: q [*B, H, K].
      query_rotary: p [*B, H, R], turned by its position.
      latent: c [*B, C].
      key_rotary: r [*B, R], turned by its position.
      key_up: U [C, H, K].
      value_up: W [C, H, V].
      bias: added to the logits, broadcasts to [*B, H, S], S the size of the cache.
      mask: bool, True = attend, broadcasts to [*B, H, S].
      scale: scalar factor of the logits, may be traced; None is (K + R) ** -0.5.
      normalizer: a name or a `Normalizer`.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed before the token.
      form: "absorbed" reads the cache as it is; "expanded" makes keys and values of every head of
        all of it, for every token. None is "absorbed".
      precision: of every matrix product.

    Returns:
      (y [*B, H, V] in the dtype of latent, the new cache). On a cache that was full already y is
      NaN, as in `attention_step`.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> cache = ops.init_latent_cache((), max_length=8, latent_dim=1)
      >>> query, latent, up = jnp.ones((1, 2)), jnp.array([3.0]), jnp.ones((1, 1, 2))
      >>> y, cache = ops.latent_attention_step(
      ...     cache, query, jnp.ones((1, 0)), latent, jnp.ones(0), up, up
      ... )
      >>> y
      Array([[3., 3.]], dtype=float32)

    Reference: muon-mla-moe
    """
    check_choice("form", form, FORMS)
    dtype = latent.dtype
    check_rank(2, query=query, query_rotary=query_rotary)
    check_rank(1, latent=latent, key_rotary=key_rotary)
    tokens = (x[..., None, :, :] for x in (query, query_rotary))
    new = (x[..., None, :] for x in (latent, key_rotary))
    arrays = _checked(*tokens, *new, key_up, value_up)
    position, state = state.position, extend_latent_cache(state, *arrays[2:4])
    query, query_rotary = (x[..., 0, :, :] for x in arrays[:2])
    key_up, value_up = arrays[4:]
    held = state.latent.astype(query.dtype)
    C, K, R = latent.shape[-1], query.shape[-1], query_rotary.shape[-1]
    if form == "expanded":
        query = jnp.concatenate([query, query_rotary], -1)
        key = _keys(held[..., :C], held[..., C:], key_up, precision)
        value = _of_heads(held[..., :C], value_up, precision)
    else:
        query = _through(query, key_up, precision, back=True)
        query = jnp.concatenate([query, query_rotary], -1)
        # The cache is keys and values at once: a part of it would be copied for every token.
        key = value = held[..., None, :]
    y = attend_so_far(
        query,
        key,
        value,
        position,
        bias,
        mask,
        scale=(K + R) ** -0.5 if scale is None else scale,
        normalizer=get_normalizer(normalizer, K + R),
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )
    if form != "expanded":
        y = _through(y[..., :C], value_up, precision)
    return y.astype(dtype), state


def _checked(query, query_rotary, latent, key_rotary, key_up, value_up):
    """The arrays in one dtype; refuses what does not fit."""
    arrays = {
        "query": query,
        "query_rotary": query_rotary,
        "latent": latent,
        "key_rotary": key_rotary,
        "key_up": key_up,
        "value_up": value_up,
    }
    check_rank(3, query=query, query_rotary=query_rotary, key_up=key_up, value_up=value_up)
    check_rank(2, latent=latent, key_rotary=key_rotary)
    *batch, T, H, K = query.shape
    S, C = latent.shape[-2:]
    R = key_rotary.shape[-1]
    check_shape("query_rotary", query_rotary, (*batch, T, H, R), "[*B, T, H, R]")
    check_shape("latent", latent, (*batch, S, C), "[*B, S, C]")
    check_shape("key_rotary", key_rotary, (*batch, S, R), "[*B, S, R]")
    check_shape("key_up", key_up, (C, H, K), "[C, H, K]")
    check_shape("value_up", value_up, (C, H, value_up.shape[-1]), "[C, H, V]")
    for name, array in arrays.items():
        require(
            jnp.issubdtype(array.dtype, jnp.floating),
            f"{name} has dtype {array.dtype}; expected a floating one.",
        )
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(array.dtype for array in arrays.values()))
    return tuple(array.astype(dtype) for array in arrays.values())


def _readable(arrays, bias, mask, query_lengths, key_lengths, segment_ids, is_causal):
    """Queries, latents and keys with zeros where nothing reads them: weights are shared by all.

    Returns:
      query, query_rotary, latent, key_rotary; which tokens are spoiled; the mask at full rank;
      where queries count, [*B, T, 1, 1].
    """
    query, query_rotary, latent, key_rotary = arrays
    as_heads = latent[..., None, :], key_rotary[..., None, :]
    *_, mask = check_arrays(query_rotary, as_heads[1], as_heads[0], bias, mask)
    check_segments(segment_ids, query, as_heads[0])
    arrays, _, spoiled = quarantine(segment_ids, arrays, factors=3, is_causal=is_causal)
    query, query_rotary, latent, key_rotary = arrays
    key_lengths = check_lengths("key_value_seq_lengths", key_lengths, query.shape[:-3])
    as_heads = latent[..., None, :], key_rotary[..., None, :]
    latent, key_rotary = (x[..., 0, :] for x in clear_hidden(*as_heads, mask, key_lengths))
    asked = None
    if query_lengths is not None:
        asked = within(query_lengths, query.shape[-3])
        query, query_rotary = (
            jnp.where(asked, x, jnp.zeros_like(x)) for x in (query, query_rotary)
        )
    return (query, query_rotary, latent, key_rotary), spoiled, mask, asked


def _product(equation, x, kernel, precision):
    dtype = accumulator_dtype(x)
    y = jnp.einsum(equation, x, kernel, precision=precision, preferred_element_type=dtype)
    return y.astype(x.dtype)


def _of_heads(latent, up, precision):
    """[*B, S, C] -> [*B, S, H, .]"""
    return _product("...sc,chk->...shk", latent, up, precision)


def _through(x, up, precision, back=False):
    """[*B, T, H, C] -> [*B, T, H, V], or back from there."""
    return _product("...hk,chk->...hc" if back else "...hc,chv->...hv", x, up, precision)


def _keys(latent, key_rotary, key_up, precision):
    """Keys of every head, [*B, S, H, K + R]."""
    key = _of_heads(latent, key_up, precision)
    shape = (*key.shape[:-1], key_rotary.shape[-1])
    return jnp.concatenate([key, jnp.broadcast_to(key_rotary[..., None, :], shape)], -1)

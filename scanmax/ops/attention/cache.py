"""Attention one token at a time: a cache of fixed size for keys and values, and its step."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.attention.dot_product import Window, check_arrays, scale_of, window_of
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.attention.parallel import attend
from scanmax.ops.contract import check_rank, check_shape, op, require


class KVCache(NamedTuple):
    """The keys [*B, S, G, K] and values [*B, S, G, V] so far, and how many tokens they hold."""

    key: Float[Array, "*B S G K"]
    value: Float[Array, "*B S G V"]
    position: Int[Array, ""]


@op("batch_shape", "max_length", "num_heads", "key_dim", "value_dim", "dtype")
def init_kv_cache(
    batch_shape: tuple[int, ...],
    max_length: int,
    num_heads: int,
    key_dim: int,
    value_dim: int | None = None,
    *,
    dtype=jnp.float32,
) -> KVCache:
    """An empty cache of keys and values for `attention_step`.

        S_0 = ()

    Args:
      batch_shape: the sizes *B.
      max_length: S, the tokens it has room for.
      num_heads: G, the key and value heads.
      key_dim: K.
      value_dim: V; None is K.
      dtype: of keys and values.

    Returns:
      KVCache(key [*B, S, G, K], value [*B, S, G, V], position), all zeros.

    Raises:
      ValueError: when max_length or a size is less than 1.

    Example:
      >>> from scanmax import ops
      >>> ops.init_kv_cache((2,), max_length=8, num_heads=1, key_dim=4).key.shape
      (2, 8, 1, 4)

    Reference: sigmoid-attention
    """
    value_dim = key_dim if value_dim is None else value_dim
    sizes = {"max_length": max_length, "num_heads": num_heads, "key_dim": key_dim}
    for name, size in {**sizes, "value_dim": value_dim}.items():
        require(size >= 1, f"{name}={size}; expected at least 1.")
    shape = (*batch_shape, max_length, num_heads)
    return KVCache(
        jnp.zeros((*shape, key_dim), dtype),
        jnp.zeros((*shape, value_dim), dtype),
        jnp.zeros((), jnp.int32),
    )


@op()
def extend_kv_cache(
    state: KVCache, key: Float[Array, "*B T G K"], value: Float[Array, "*B T G V"]
) -> KVCache:
    """Appends the keys and values of several tokens: what a prefill leaves behind.

        S_{t+n} = S_t, (k_{t+1}, v_{t+1}), ..., (k_{t+n}, v_{t+n})

    Run the prompt through `dot_product_attention(..., is_causal=True)`, hand its keys and values
    here, and go on with `attention_step`.

    Args:
      state: the cache.
      key: [*B, T, G, K].
      value: [*B, T, G, V].

    Returns:
      The cache with T more tokens; their dtype becomes the cache's. Where it has no room for them,
      they are written as NaN, which reaches every output from there on: how full the cache is shows
      only while the program runs, and no token is dropped or overwritten in silence.

    Raises:
      ValueError: when a shape does not fit, or T is more than an empty cache has room for.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> cache = ops.init_kv_cache((), max_length=8, num_heads=1, key_dim=4)
      >>> tokens = jnp.ones((3, 1, 4))
      >>> int(ops.extend_kv_cache(cache, tokens, tokens).position)
      3

    Reference: sigmoid-attention
    """
    check_rank(3, key=key, value=value)
    *batch, S, G, K = state.key.shape
    T = key.shape[-3]
    check_shape("key", key, (*batch, T, G, K), "[*B, T, G, K]")
    check_shape("value", value, (*batch, T, G, state.value.shape[-1]), "[*B, T, G, V]")
    require(T <= S, f"key has shape {key.shape}: {T} tokens, and the cache has room for {S}.")

    axis, position = len(batch), state.position
    return KVCache(
        written(state.key, key, position, axis),
        written(state.value, value, position, axis),
        position + jnp.asarray(T, position.dtype),
    )


def written(cache: Array, new: Array, position: Array, axis: int) -> Array:
    """The cache with `new` from `position` on along the axis; NaN where it has no room."""
    fits = position <= cache.shape[axis] - new.shape[axis]
    new = jnp.where(fits, new, jnp.full_like(new, jnp.nan)).astype(cache.dtype)
    return lax.dynamic_update_slice_in_dim(cache, new, position, axis=axis)


@op("normalizer", "logits_soft_cap", "local_window_size", "precision")
def attention_step(
    state: KVCache,
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B G K"],
    value: Float[Array, "*B G V"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    logits_soft_cap: float | None = None,
    local_window_size: Window = None,
    precision=None,
) -> tuple[Float[Array, "*B H V"], KVCache]:
    """One token of causal attention: appends its key and value, attends to all so far.

        S_t = S_{t-1}, (k_t, v_t);   y_t = attention(q_t, S_t)

    Args:
      state: the cache, from `init_kv_cache`, `extend_kv_cache` or the step before.
      query: [*B, H, K].
      key: [*B, G, K].
      value: [*B, G, V].
      bias: added to the logits, broadcasts to [*B, H, S], S the size of the cache.
      mask: bool, True = attend, broadcasts to [*B, H, S] (hide left padding with it).
      scale: scalar factor of the logits, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed before the token (what it allows after it is not there yet).
      precision: of every matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the new cache). On a cache that was full already y is
      NaN: its size is part of the compiled program, so it cannot grow, and no token is dropped in
      silence.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> cache = ops.init_kv_cache((), max_length=8, num_heads=1, key_dim=2)
      >>> token = jnp.ones((1, 2))
      >>> y, cache = ops.attention_step(cache, token, token, 3 * token)
      >>> y
      Array([[3., 3.]], dtype=float32)

    Reference: sigmoid-attention
    """
    check_rank(2, query=query, key=key, value=value)
    *batch, _, G, K = state.key.shape
    H = query.shape[-2]
    check_shape("query", query, (*batch, H, K), "[*B, H, K]")
    check_shape("key", key, (*batch, G, K), "[*B, G, K]")
    check_shape("value", value, (*batch, G, state.value.shape[-1]), "[*B, G, V]")
    position = state.position
    state = extend_kv_cache(state, key[..., None, :, :], value[..., None, :, :])
    y = attend_so_far(
        query,
        state.key,
        state.value,
        position,
        bias,
        mask,
        scale=scale,
        normalizer=get_normalizer(normalizer, K),
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )
    return y.astype(value.dtype), state


def attend_so_far(
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    position: Int[Array, ""],
    bias: Float[Array, "..."] | None,
    mask: Bool[Array, "..."] | None,
    *,
    scale: Float[Array, ""] | float | None,
    normalizer: Normalizer,
    logits_soft_cap: float | None,
    local_window_size: Window,
    precision,
) -> Float[Array, "*B H V"]:
    """What the token at `position` makes of the places up to its own; NaN beyond the last."""
    S = key.shape[-3]
    column = jnp.arange(S, dtype=position.dtype)
    allowed = column <= position
    left, _ = window_of(local_window_size, True)
    if left is not None:
        allowed = allowed & (column >= position - left)
    query = query[..., None, :, :]
    bias, mask = (x if x is None else jnp.expand_dims(x, -2) for x in (bias, mask))
    query, key, bias, mask = check_arrays(query, key, value, bias, mask)
    allowed = allowed.reshape((1,) * (query.ndim - 1) + (S,))  # [*B, H, T=1, S]
    y = attend(
        normalizer,
        query,
        key,
        value,
        bias,
        allowed if mask is None else allowed & mask,
        scale_of(scale, query),
        (None, None),
        None,
        logits_soft_cap,
        precision,
    )[..., 0, :, :]
    return jnp.where(position < S, y, jnp.full_like(y, jnp.nan))

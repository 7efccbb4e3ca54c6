"""Mixture-of-head attention: a gate for each token and head, and heads that are not evaluated.

The gathered form evaluates the routed heads for the tokens that chose them, exactly and with static
shapes. Pairs (token, head) are put in order of the head, each head's share padded to whole blocks:
T k pairs never take more than T k / b + R blocks of b pairs, whatever the routing, and a block
reads the keys and values of one head. Blocks that stay empty are skipped. The backward pass
computes a block's weights again, so training keeps no more than one block of logits either.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import (
    attention_matrix,
    check_arrays,
    dot_product_attention,
    scale_of,
)
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_shape,
    op,
    platform,
    require,
    vary_like,
)

FORMS = (None, "masked", "gathered")
# form=None: up to this many logits per head the dense form is faster (CPU, 2 threads).
MASKED_UP_TO = 512 * 512


@op("shared_heads", "top_k", "is_causal", "normalizer", "form", "chunk_size", "precision")
def moh_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    gates: Float[Array, "*B T H"],
    *,
    shared_heads: int,
    top_k: int,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int = 128,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention whose heads are weighed, and left out, for each token.

        y_th = g_th softmax(scale q_th k_h^T) v_h where g_th is not 0, else 0

    Args:
      query: [*B, T, H, K]; the first `shared_heads` heads are those that every token uses.
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      gates: [*B, T, H], as `moh_gates` makes them. A gate of 0 gets no gradient.
      shared_heads: leading heads that every token uses.
      top_k: of the other heads, at most so many gates of a token are not 0. The gathered form
        gives NaN for a token that has more.
      scale: of the logits, may be traced; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: a name or a `Normalizer`, as in `dot_product_attention`.
      form: "masked" evaluates every head for every token and multiplies. "gathered" evaluates the
        pairs that count (reverse mode of first order). None: "gathered" on CPU where
        T * S > 512 * 512 and top_k is at most 3/4 of the routed heads, else "masked".
      chunk_size: pairs in a block of the gathered form.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value, gates applied; summed over heads by an output projection.

    Raises:
      ValueError: a shape or an option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, gates = jnp.ones((2, 2, 1)), jnp.array([[0.0, 3.0], [2.0, 0.0]])
      >>> ops.moh_attention(x, x, x, gates, shared_heads=0, top_k=1)[..., 0]
      Array([[0., 3.],
             [2., 0.]], dtype=float32)

    Reference: moh
    """
    check_choice("form", form, FORMS)
    query, key, _, _ = check_arrays(query, key, value, None, None)
    *batch, T, H, K = query.shape
    S, V = value.shape[-3], value.shape[-1]
    check_shape("gates", gates, (*batch, T, H), "[*B, T, H]")
    routed_heads = H - shared_heads
    require(0 <= shared_heads <= H, f"shared_heads={shared_heads}: expected 0 to {H} heads.")
    require(0 <= top_k <= routed_heads, f"top_k={top_k}: expected 0 to {routed_heads} heads.")
    require(chunk_size >= 1, f"chunk_size={chunk_size} must be positive.")
    keywords = {"is_causal": is_causal, "normalizer": normalizer, "precision": precision}
    if form is None:
        saves = 4 * top_k <= 3 * routed_heads and platform() == "cpu"
        form = "gathered" if saves and T * S > MASKED_UP_TO else "masked"
    if form == "masked" or routed_heads == 0 or query.size == 0:
        y = dot_product_attention(query, key, value, scale=scale, **keywords)
        return _weigh(gates, y)

    repeats = H // key.shape[-2]
    scale = scale_of(scale, query)
    parts = []
    if shared_heads:
        used = slice(0, -(-shared_heads // repeats))
        heads = query[..., :shared_heads, :]
        k, v = key[..., used, :], value[..., used, :]
        if shared_heads % repeats and used.stop > 1:
            k, v = (jnp.repeat(x, repeats, -2)[..., :shared_heads, :] for x in (k, v))
        parts.append(dot_product_attention(heads, k, v, scale=scale, **keywords))
    plan = _Plan(normalizer, is_causal, chunk_size, top_k, shared_heads, repeats, precision)
    flat = (
        query[..., shared_heads:, :].reshape(-1, T, routed_heads, K),
        key.reshape(-1, *key.shape[-3:]),
        value.reshape(-1, *value.shape[-3:]),
        (gates[..., shared_heads:] != 0).reshape(-1, T, routed_heads),
    )
    arrays = (*flat, scale.astype(accumulator_dtype(query)))
    y = _routed(plan, *(vary_like(x, *arrays) for x in arrays))
    parts.append(y.reshape(*batch, T, routed_heads, V))
    return _weigh(gates, jnp.concatenate(parts, -2))


def _weigh(gates, y):
    dtype = accumulator_dtype(y, gates)
    gates = gates[..., None]
    weighed = gates.astype(dtype) * y.astype(dtype)
    return jnp.where(gates == 0, jnp.zeros_like(weighed), weighed).astype(y.dtype)


@op("is_causal", "normalizer", "precision")
def moh_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    gates: Float[Array, "*B T H"],
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `moh_attention` mixes the values.

        A_hts = g_th P_hts,   P = softmax(scale q k^T)

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      gates: [*B, T, H].
      scale: of the logits; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: a name or a `Normalizer`.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query; rows of heads that a token leaves out are 0.

    Raises:
      ValueError: a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 1, 1))
      >>> ops.moh_attention_matrix(x, x, jnp.array([[2.0], [0.0]]))[0]
      Array([[1., 1.],
             [0., 0.]], dtype=float32)

    Reference: moh
    """
    keywords = {"is_causal": is_causal, "normalizer": normalizer, "precision": precision}
    weights = attention_matrix(query, key, scale=scale, **keywords)
    check_shape("gates", gates, query.shape[:-1], "[*B, T, H]")
    return _weigh(jnp.swapaxes(gates, -1, -2), weights).astype(query.dtype)


# The gathered form.


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The static part of a call; `repeats` is H / G."""

    normalizer: str | Normalizer
    is_causal: bool
    block: int
    top_k: int
    first_head: int
    repeats: int
    precision: object


def _places(plan: _Plan, active: Array):
    """Where pairs go, and what blocks hold.

    Returns:
      slot [N, T, R] of each pair among the blocks' rows (past the end where there is none), head
      [N, blocks] of each block (R for an empty one), and token [N, blocks, b] of each row (T for
      none).
    """
    N, T, R = active.shape
    b = min(plan.block, T)
    blocks = max(min((T * plan.top_k + R * (b - 1)) // b, R * -(-T // b)), 1)
    order = jnp.cumsum(active.astype(jnp.int32), 1)  # [N, T, R]
    taken = -(-order[:, -1] // b)  # blocks of each head, [N, R]
    last = jnp.cumsum(taken, -1)
    first = (last - taken)[:, None] * b
    slot = jnp.where(active, first + order - 1, blocks * b)
    number = jnp.arange(blocks, dtype=last.dtype)
    head = jnp.sum(number[None, :, None] >= last[:, None], -1, dtype=jnp.int32)
    token = jnp.full((N, blocks * b), T, jnp.int32)
    tokens = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None, :, None], active.shape)
    row = jnp.broadcast_to(jnp.arange(N)[:, None, None], active.shape)
    token = token.at[row.reshape(-1), slot.reshape(-1)].set(tokens.reshape(-1), mode="drop")
    return slot, head, token.reshape(N, blocks, b)


def _to_rows(x, head, token):
    """[N, T, R, K] -> [N blocks, b, K], zeros in rows without a pair."""
    N, T, R, K = x.shape
    index = (token * R + head[..., None]).reshape(N, -1)
    there = (token < T).reshape(N, -1)
    index = jnp.where(there, index, jnp.zeros_like(index))
    rows = jnp.take_along_axis(x.reshape(N, T * R, K), index[..., None], 1)
    rows = jnp.where(there[..., None], rows, jnp.zeros_like(rows))
    return rows.reshape(-1, token.shape[-1], K)


def _from_rows(rows, slot):
    """[N blocks, b, V] -> [N, T, R, V], zeros where there is no pair."""
    N, T, R = slot.shape
    rows = rows.reshape(N, -1, rows.shape[-1])
    there = (slot < rows.shape[1]).reshape(N, -1, 1)
    index = jnp.minimum(slot.reshape(N, -1, 1), rows.shape[1] - 1)
    y = jnp.take_along_axis(rows, index, 1)
    return jnp.where(there, y, jnp.zeros_like(y)).reshape(N, T, R, -1)


def _over_blocks(plan, key, head, token):
    """(key head of each block in the flat list of blocks, tokens of its rows)."""
    N, groups = key.shape[0], key.shape[-2]
    group = jnp.minimum((head + plan.first_head) // plan.repeats, groups - 1)
    group = group + groups * jnp.arange(N, dtype=group.dtype)[:, None]
    return group.reshape(-1), token.reshape(-1, token.shape[-1])


def _head_first(x):
    """[N, S, G, K] -> [N G, S, K]."""
    return jnp.moveaxis(x, -2, 1).reshape(-1, x.shape[1], x.shape[-1])


def _block_attention(plan, query, key, value, scale, token):
    """[b, V] of one block: queries [b, K] of one head against its keys [S, K] and values."""
    mask = None
    if plan.is_causal:
        mask = (jnp.arange(key.shape[0], dtype=token.dtype)[None] <= token[:, None])[None]
    y = dot_product_attention(
        query[:, None],
        key[:, None],
        value[:, None],
        mask=mask,
        scale=scale,
        normalizer=plan.normalizer,
        form="parallel",
        precision=plan.precision,
    )
    return y[:, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _routed(plan, query, key, value, active, scale):
    """The routed heads: query [N, T, R, K], key [N, S, G, K], active [N, T, R] -> [N, T, R, V]."""
    return _routed_forward(plan, query, key, value, active, scale)[0]


def _routed_forward(plan, query, key, value, active, scale):
    T = query.shape[1]
    slot, head, token = _places(plan, active)
    rows = _to_rows(query, head, token)
    group, tokens = _over_blocks(plan, key, head, token)
    keys, values = _head_first(key), _head_first(value)

    def block(inputs):
        query, group, token = inputs

        def attend():
            k, v = (lax.dynamic_index_in_dim(x, group, keepdims=False) for x in (keys, values))
            return _block_attention(plan, query, k, v, scale, token)

        def skip():
            y = jnp.zeros((*query.shape[:-1], values.shape[-1]), values.dtype)
            return vary_like(y, query, keys, values)

        return lax.cond(token[0] < T, attend, skip)

    y = _from_rows(lax.map(block, (rows, group, tokens)), slot)
    too_many = jnp.sum(active, -1, keepdims=True) > plan.top_k
    y = jnp.where(too_many[..., None], jnp.full_like(y, math.nan), y)
    return y, (query, key, value, active, scale)


def _routed_backward(plan, residuals, d_y):
    query, key, value, active, scale = residuals
    T = query.shape[1]
    slot, head, token = _places(plan, active)
    rows, d_rows = _to_rows(query, head, token), _to_rows(d_y, head, token)
    group, tokens = _over_blocks(plan, key, head, token)
    keys, values = _head_first(key), _head_first(value)
    dtype = accumulator_dtype(query, key, value)

    def block(carry, inputs):
        query, d_y, group, token = inputs

        def attend(carry):
            d_keys, d_values, d_scale = carry
            k, v = (lax.dynamic_index_in_dim(x, group, keepdims=False) for x in (keys, values))
            _, pull_back = jax.vjp(
                lambda q, k, v, s: _block_attention(plan, q, k, v, s, token), query, k, v, scale
            )
            d_query, d_k, d_v, d_s = pull_back(d_y)

            def add(total, update):
                old = lax.dynamic_index_in_dim(total, group, keepdims=False)
                new = old + update.astype(dtype)
                return lax.dynamic_update_index_in_dim(total, new, group, 0)

            return (add(d_keys, d_k), add(d_values, d_v), d_scale + d_s), d_query

        def skip(carry):
            return carry, vary_like(jnp.zeros_like(query), query, keys, values)

        return lax.cond(token[0] < T, attend, skip, carry)

    zeros = (jnp.zeros(keys.shape, dtype), jnp.zeros(values.shape, dtype), jnp.zeros_like(scale))
    zeros = tuple(vary_like(x, query, key, value, d_y) for x in zeros)
    (d_keys, d_values, d_scale), d_rows = lax.scan(block, zeros, (rows, d_rows, group, tokens))

    def restore(x, like):
        N, S, G, width = like.shape
        return jnp.moveaxis(x.reshape(N, G, S, width), 1, -2).astype(like.dtype)

    d_query = _from_rows(d_rows, slot)
    return d_query, restore(d_keys, key), restore(d_values, value), None, d_scale


_routed.defvjp(_routed_forward, _routed_backward)

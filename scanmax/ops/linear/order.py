"""Attention in linear order: the sums over keys first, then the queries that read them.

Every weight is an affine function of a product of features,

    w_ij = gain_i * c_i * (q_i . k_j) + shift_i,    c_i = scale, or scale / n_i

where n_i tokens are seen by query i. Gain and shift follow from t_i = c_i sum_j q_i . k_j and n_i
alone, so that y_i = gain_i c_i q_i^T (sum_j k_j v_j^T) + shift_i sum_j v_j takes one pass over the
tokens. A rule `(t, n) -> (gain, shift)` is all that tells one normalisation from another; a shift
of None is none at all.

Positions may turn the q and k of the products and leave those of t_i as they are: `turned` is the
turned pair. The state of the causal form is [[sum k v^T, sum k], [sum v^T, n]], [*B, H, K+1, V+1].
"""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_implementation,
    check_rank,
    check_shape,
    platform,
    require,
    require_causal_states,
)
from scanmax.ops.linear.feature_maps import check_feature_map, features
from scanmax.ops.scan.recurrence import flat_batch, run
from scanmax.ops.segments import FORMS


def attention(
    name,
    rule,
    query,
    key,
    value,
    *,
    feature_map=None,
    turned=(None, None),
    scale=None,
    is_causal,
    initial_state,
    return_state,
    form,
    implementation,
    **options,
):
    """What an op of this order is, `name`, checks included: y, or (y, state)."""
    check_feature_map(feature_map)
    check_implementation(name, implementation, ("xla",))
    require_causal_states(is_causal, initial_state, return_state)
    options |= {"scale": default_scale(scale, query), "turned": turned}
    query, key = features(query, feature_map), features(key, feature_map)
    check(query, key, value, form=form, state=initial_state, turned=turned)
    options |= {"is_causal": is_causal, "state": initial_state, "form": form}
    y, state = attend(rule, query, key, value, **options)
    y = y.astype(value.dtype)
    return (y, state) if return_state else y


def attention_step(
    rule, state, query, key, value, *, feature_map=None, turned=(None, None), scale=None, **options
):
    """One token of the causal `attention`: (y, state)."""
    check_feature_map(feature_map)
    options |= {"scale": default_scale(scale, query), "turned": turned}
    query, key = features(query, feature_map), features(key, feature_map)
    check(query, key, value, state=state, turned=turned, rank=2)
    y, state = attend_step(rule, state, query, key, value, **options)
    return y.astype(value.dtype), state


def attention_matrix(
    rule, query, key, *, feature_map=None, turned=(None, None), scale=None, **options
):
    """The weights of `attention`, in the dtype of query."""
    check_feature_map(feature_map)
    options |= {"scale": default_scale(scale, query), "turned": turned}
    dtype = query.dtype
    query, key = features(query, feature_map), features(key, feature_map)
    check(query, key, None, turned=turned)
    return weights(rule, query, key, **options).astype(dtype)


def attend(
    rule,
    query,
    key,
    value,
    *,
    turned=(None, None),
    scale=1.0,
    average=False,
    is_causal=False,
    state=None,
    form=None,
    chunk_size=64,
    precision=None,
):
    """y [*B, T, H, V] in the accumulator's dtype, and the state (None where not causal).

    Bidirectional, form="parallel" is the quadratic order: the matrix over tokens, then the values.
    """
    dtype = accumulator_dtype(query, key, value, state)
    query, key, (turned_query, turned_key) = _features(query, key, turned, dtype)
    value = value.astype(_operand_dtype(value, dtype))
    if is_causal:
        if state is None:
            shape = (*value.shape[:-3], value.shape[-2], key.shape[-1] + 1, value.shape[-1] + 1)
            state = jnp.zeros(shape, dtype)
        state = state.astype(dtype)
        inputs = (turned_query, turned_key, value, None, state[..., :-1, :-1])
        batch = value.ndim - 3
        options = {"form": form, "chunk_size": chunk_size, "precision": precision, "dtype": dtype}
        read, products = run(*(flat_batch(x, batch) for x in inputs), **options)
        read, products = read.reshape(value.shape), products.reshape(state[..., :-1, :-1].shape)
        keys, values, count = _blocks(state[..., None, :, :, :])
        tokens = jnp.arange(1, value.shape[-3] + 1, dtype=dtype)
        total = _dot(query, keys + _running_sums(key, chunk_size, dtype), precision)
        seen = values + _running_sums(value, chunk_size, dtype)
        count = count + align(tokens, value, 2)
        state = _state(
            products,
            state[..., :-1, -1] + key.sum(-3, dtype=dtype),
            state[..., -1, :-1] + value.sum(-3, dtype=dtype),
            count[..., -1, :, 0],
        )
    elif form == "parallel":
        matrix = weights(
            rule,
            query,
            key,
            turned=turned,
            scale=scale,
            average=average,
            precision=precision,
        ).astype(value.dtype)
        y = jnp.einsum(
            "...hij,...jhv->...ihv",
            matrix,
            value,
            precision=precision,
            preferred_element_type=dtype,
        )
        return y, None
    else:
        count = float(value.shape[-3])
        # heads first: on CPU half the time of products that have them in the middle
        q, k, v = (jnp.moveaxis(x, -2, -3) for x in (turned_query, turned_key, value))
        products = jnp.einsum(
            "...tk,...tv->...kv", k, v, precision=precision, preferred_element_type=dtype
        )
        read = jnp.einsum("...tk,...kv->...tv", q.astype(dtype), products, precision=precision)
        read = jnp.moveaxis(read, -3, -2)
        total = _dot(query, key.sum(-3, keepdims=True, dtype=dtype), precision)
        seen = value.sum(-3, keepdims=True, dtype=dtype)
    return _combine(rule, read, total, seen, count, scale, average), state


def attend_step(
    rule, state, query, key, value, *, turned=(None, None), scale=1.0, average=False, precision=None
):
    """One token of the causal `attend`: y [*B, H, V] in the accumulator's dtype, and the state."""
    dtype = accumulator_dtype(query, key, value, state)
    query, key, (turned_query, turned_key) = _features(query, key, turned, dtype)
    value, state = value.astype(dtype), state.astype(dtype)
    ones = jnp.ones_like(value[..., :1])
    products = state[..., :-1, :-1] + turned_key.astype(dtype)[..., None] * value[..., None, :]
    keys = state[..., :-1, -1] + key.astype(dtype)
    values = state[..., -1, :-1] + value
    count = state[..., -1, -1:] + ones
    read = jnp.einsum(
        "...hk,...hkv->...hv", turned_query.astype(dtype), products, precision=precision
    )
    total = _dot(query, keys, precision)
    y = _combine(rule, read, total, values, count, scale, average)
    return y, _state(products, keys, values, count[..., 0])


def weights(
    rule,
    query,
    key,
    *,
    turned=(None, None),
    scale=1.0,
    average=False,
    is_causal=False,
    precision=None,
):
    """The matrix over tokens, [*B, H, T, T] in the accumulator's dtype."""
    dtype = accumulator_dtype(query, key)
    query, key, pair = _features(query, key, turned, dtype)

    def products(q, k):
        return jnp.einsum(
            "...ihk,...jhk->...hij", q, k, precision=precision, preferred_element_type=dtype
        )

    matrix = products(*pair)
    plain = matrix if turned[0] is None else products(query, key)
    length = matrix.shape[-1]
    past = align(jnp.tri(length, dtype=bool), matrix)
    count = float(length)
    if is_causal:
        plain = jnp.where(past, plain, 0)
        count = align(jnp.arange(1, length + 1, dtype=dtype), matrix, 1)
    c = scale / count if average else scale
    gain, shift = rule(c * plain.sum(-1, keepdims=True), count)
    matrix = gain * c * matrix
    matrix = matrix if shift is None else matrix + shift
    return jnp.where(past, matrix, 0) if is_causal else matrix


def check(query, key, value, *, form=None, state=None, turned=(None, None), rank=3):
    """Refuses wrong shapes; rank 3 with time, 2 without, value None for a matrix."""
    check_choice("form", form, FORMS)
    check_rank(rank, query=query, key=key, value=value)
    check_shape("key", key, query.shape, "the shape of query")
    if value is not None:
        time = "T, " if rank == 3 else ""
        expected = (*query.shape[:-1], value.shape[-1])
        check_shape("value", value, expected, f"[*B, {time}H, V] beside query")
        expected = (*query.shape[: query.ndim - rank], query.shape[-2])
        expected = (*expected, query.shape[-1] + 1, value.shape[-1] + 1)
        name = "initial_state" if rank == 3 else "state"
        check_shape(name, state, expected, "[*B, H, K+1, V+1]")
    turned_query, turned_key = turned
    require(
        (turned_query is None) == (turned_key is None),
        "turned_query and turned_key come together: both or none.",
    )
    check_shape("turned_query", turned_query, query.shape, "the shape of query")
    check_shape("turned_key", turned_key, key.shape, "the shape of key")


def default_scale(scale, query):
    """The scale given, or one over the root of the width of a head."""
    return query.shape[-1] ** -0.5 if scale is None else scale


def _features(query, key, turned, dtype):
    """Queries and keys in the dtype they are multiplied in; those of the products last."""
    query, key = (x.astype(_operand_dtype(x, dtype)) for x in (query, key))
    turned_query, turned_key = turned
    if turned_query is None:
        return query, key, (query, key)
    turned = (x.astype(_operand_dtype(x, dtype)) for x in (turned_query, turned_key))
    return query, key, tuple(turned)


def _operand_dtype(x, dtype):
    """Products of bfloat16 are slow on CPU."""
    return dtype if platform() == "cpu" else x.dtype


def _dot(x, y, precision):
    """Inner products along the last axis, which stays with size 1; y in the accumulator's dtype."""
    return jnp.sum(x.astype(y.dtype) * y, -1, keepdims=True)


def _running_sums(x, chunk_size, dtype):
    """Sums over the tokens up to each, [*B, T, H, W]: a product with a triangle within chunks.

    On CPU a cumulative sum takes several times as long.
    """
    *batch, length, heads, width = x.shape
    chunk_size = max(1, min(chunk_size, length))
    pad = -length % chunk_size
    x = jnp.pad(x.astype(dtype), [(0, 0)] * len(batch) + [(0, pad), (0, 0), (0, 0)])
    x = x.reshape(*batch, (length + pad) // chunk_size, chunk_size, heads * width)
    past = jnp.tri(chunk_size, dtype=dtype)
    within = jnp.einsum("ij,...jw->...iw", past, x, precision=jax.lax.Precision.HIGHEST)
    before = jnp.cumsum(within[..., :-1, -1:, :], -3)
    before = jnp.pad(before, [(0, 0)] * len(batch) + [(1, 0), (0, 0), (0, 0)])
    return (within + before).reshape(*batch, length + pad, heads, width)[..., :length, :, :]


def _combine(rule, read, total, seen, count, scale, average):
    c = scale / count if average else scale
    gain, shift = rule(c * total, count)
    y = gain * c * read
    return y if shift is None else y + shift * seen


def _blocks(state):
    """sum k [.., H, K], sum v [.., H, V] and n [.., H, 1] of a state [.., H, K+1, V+1]."""
    return state[..., :-1, -1], state[..., -1, :-1], state[..., -1, -1:]


def _state(products, keys, values, count):
    """The blocks in one array; keys [.., K], values [.., V], count [..]."""
    top = jnp.concatenate([products, keys[..., None]], -1)
    bottom = jnp.concatenate([values, count[..., None]], -1)
    return jnp.concatenate([top, bottom[..., None, :]], -2)

"""Linear attention: a matrix-valued recurrence over tokens, with or without decay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
    require_causal_states,
)
from scanmax.ops.linear.feature_maps import check_feature_map, feature_width, features
from scanmax.ops.scan.recurrence import (
    backend_of,
    decayed_products,
    flat_batch,
    forget,
    repeat_groups,
    run,
    run_both_ways,
    step,
)
from scanmax.ops.segments import FORMS, quarantine, same_segment, spoil, spoil_rows, spoil_state


@op(
    "feature_map",
    "normalize",
    "is_causal",
    "return_state",
    "form",
    "chunk_size",
    "precision",
    "implementation",
)
def linear_attention(
    query: Float[Array, "*B T G K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T H V"],
    *,
    log_decay: Float[Array, "*B T H"] | Float[Array, "*B T H K"] | None = None,
    feature_map: str | Callable | None = None,
    normalize: bool = False,
    is_causal: bool = True,
    scale: Float[Array, ""] | float | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B H K _"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """Linear attention, with no decay, one decay per head, or one per key channel.

        S_t = exp(log_decay_t) * S_{t-1} + phi(k_t) (x) v_t,    y_t = scale * S_t^T phi(q_t)

    With `normalize`, y_t is divided by z_t^T phi(q_t), where z is the same recurrence over
    phi(k_t); where that is zero, so is y_t. Bidirectional attention runs the recurrence in both
    directions and counts the token itself once: token j reaches i with the decays of the tokens
    from the one next to j up to i itself, on either side.

    Args:
      query: the queries; its heads divide those of value, which share them in order.
      key: the keys, shaped as `query`.
      value: the values.
      log_decay: at most 0 (-inf forgets everything); per head or per key channel.
      feature_map: phi, a function or a name: "elu" is 1 + elu, "relu" and "squared_relu", "softmax"
        over channels, "taylor" (1, u, u (x) u / sqrt(2)) with u = x / K^(1/4), whose products
        1 + s + s^2 / 2 are exp(s) of s = q . k / sqrt(K) to second order; its width
        1 + K + K (K + 1) / 2 takes the place of K in states and decays.
      normalize: divide by the sum of the weights.
      is_causal: attend to the past and to itself only.
      scale: None is 1.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the S before the first token, of the first segment; causal only. With
        `normalize` it has V + 1 columns, of which the last is z.
      return_state: also return the S after the last token, in accumulator precision; with segments
        that of the last one.
      form: "recurrent" takes T steps, "chunked" T / chunk_size, "parallel" builds the T x T matrix.
        None: "parallel" up to chunk_size tokens, else "chunked"; but on CPU, where no gradient is
        taken and K V is at most 64 * 64, "recurrent", which is faster there.
      chunk_size: tokens per chunk (a power of two with decays per channel; rounded up).
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: "xla" (also None), or "pallas" as in `ssd`, whose chunks are of a multiple of
        128 tokens, of 64 with decays per channel.

    Returns:
      [*B, T, H, V] in the dtype of value; with `return_state` also the state [*B, H, K, V].

    Raises:
      ValueError: an array of the wrong shape, an unknown name, a state without is_causal.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import linear_attention
      >>> q = k = v = jnp.ones((3, 1, 1))
      >>> linear_attention(q, k, v, log_decay=jnp.log(jnp.full((3, 1), 0.5)))[:, 0, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)

    Reference: mamba2-ssd
    """
    check_choice("form", form, FORMS)
    _check(query, key, value, log_decay, feature_map, 3)
    batch, (heads, width) = value.shape[:-3], value.shape[-2:]
    dim = feature_width(query.shape[-1], feature_map)
    require_causal_states(is_causal, initial_state, return_state)
    width += normalize
    check_shape("initial_state", initial_state, (*batch, heads, dim, width), "[*B, H, K, V]")
    check_shape("segment_ids", segment_ids, value.shape[:-2], "[*B, T]")
    dtype = accumulator_dtype(query, key, value, log_decay, initial_state)
    query, key = features(query, feature_map), features(key, feature_map)
    arrays = (query, key, value)
    backend = backend_of("linear_attention", implementation, form, is_causal, dtype, *arrays)
    tokens, initial_state, spoiled = quarantine(
        segment_ids,
        (query, key, value),
        decays=(log_decay,),
        state=initial_state,
        factors=3,
        is_causal=is_causal,
    )
    *inputs, log_decay = tokens
    if normalize:
        inputs[2] = _with_ones(inputs[2])
    inputs = [flat_batch(x, len(batch)) for x in inputs]
    initial_state = flat_batch(initial_state, len(batch))
    options = {"form": form, "chunk_size": chunk_size, "precision": precision, "dtype": dtype}

    def decays(reverse):
        if segment_ids is None:
            return flat_batch(log_decay, len(batch))
        given = jnp.zeros(value.shape[:-1], dtype) if log_decay is None else log_decay
        return flat_batch(forget(given, segment_ids, reverse), len(batch))

    if is_causal:
        y, state = run(*inputs, decays(False), initial_state, **options, backend=backend)
    elif log_decay is None and segment_ids is None:
        y, state = _global(*inputs, dtype, precision), None
    else:
        y, state = run_both_ways(*inputs, (decays(False), decays(True)), **options), None
    if normalize:
        y = _normalized(y)
    y = (y if scale is None else y * scale).astype(value.dtype).reshape(value.shape)
    y = spoil(y, spoiled)
    if not return_state:
        return y
    return y, spoil_state(state.reshape(*batch, heads, dim, width), spoiled)


@op("feature_map", "normalize", "precision")
def linear_attention_step(
    state: Float[Array, "*B H K V"],
    query: Float[Array, "*B G K"],
    key: Float[Array, "*B G K"],
    value: Float[Array, "*B H V"],
    *,
    log_decay: Float[Array, "*B H"] | Float[Array, "*B H K"] | None = None,
    feature_map: str | Callable | None = None,
    normalize: bool = False,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of causal `linear_attention`.

        S_t = exp(log_decay_t) * S_{t-1} + phi(k_t) (x) v_t,    y_t = scale * S_t^T phi(q_t)

    Args:
      state: S_{t-1}; zeros at the start. V + 1 columns with `normalize`.
      query: the query; its heads divide those of value.
      key: the key.
      value: the value.
      log_decay: at most 0, per head or per key channel.
      feature_map: phi, a name or a function.
      normalize: divide by the sum of the weights.
      scale: None is 1.
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import linear_attention_step
      >>> q = k = v = jnp.ones((1, 1))
      >>> y, state = linear_attention_step(jnp.ones((1, 1, 1)), q, k, v)
      >>> y
      Array([[2.]], dtype=float32)

    Reference: mamba2-ssd
    """
    _check(query, key, value, log_decay, feature_map, 2)
    dim = feature_width(query.shape[-1], feature_map)
    expected = (*value.shape[:-1], dim, value.shape[-1] + normalize)
    check_shape("state", state, expected, "[*B, H, K, V]")
    dtype = accumulator_dtype(query, key, value, log_decay, state)
    query, key = features(query, feature_map), features(key, feature_map)
    values = _with_ones(value) if normalize else value
    y, state = step(state.astype(dtype), query, key, values, log_decay, precision=precision)
    if normalize:
        y = _normalized(y)
    return (y if scale is None else y * scale).astype(value.dtype), state


@op("feature_map", "normalize", "is_causal", "precision")
def linear_attention_matrix(
    query: Float[Array, "*B T G K"],
    key: Float[Array, "*B T G K"],
    *,
    log_decay: Float[Array, "*B T H"] | Float[Array, "*B T H K"] | None = None,
    feature_map: str | Callable | None = None,
    normalize: bool = False,
    is_causal: bool = True,
    scale: Float[Array, ""] | float | None = None,
    segment_ids: Int[Array, "*B T"] | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `linear_attention` applies to its values, for small T.

        M_ij = scale * sum_n phi(q_i)_n phi(k_j)_n exp(decays between j and i)_n

    Args:
      query: the queries.
      key: the keys.
      log_decay: at most 0; per head, or per key channel (which takes T * T * H * K of memory).
      feature_map: phi, a name or a function.
      normalize: divide every row by its sum.
      is_causal: lower triangular.
      scale: None is 1.
      segment_ids: packed sequences; blocks on the diagonal.
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query, where H is the number of decays, or of query heads.

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import linear_attention_matrix
      >>> x = jnp.ones((2, 1, 1))
      >>> linear_attention_matrix(x, x)[0]
      Array([[1., 0.],
             [1., 1.]], dtype=float32)

    Reference: hidden-mamba-attention
    """
    heads = query.shape[-2]
    if log_decay is not None:
        heads = log_decay.shape[log_decay.ndim - 1 - (log_decay.ndim == query.ndim)]
    value = jax.ShapeDtypeStruct((*query.shape[:-2], heads, 1), query.dtype)
    _check(query, key, value, log_decay, feature_map, 3)
    check_shape("segment_ids", segment_ids, query.shape[:-2], "[*B, T]")
    (query, key, log_decay), _, spoiled = quarantine(
        segment_ids, (query, key), decays=(log_decay,), factors=3, is_causal=is_causal
    )
    dtype = accumulator_dtype(query, key, log_decay)
    q = repeat_groups(features(query, feature_map), heads, -2).astype(dtype)
    k = repeat_groups(features(key, feature_map), heads, -2).astype(dtype)
    if log_decay is None:
        matrix = jnp.einsum("...ihk,...jhk->...hij", q, k, precision=precision)
        if is_causal:
            past = jnp.tri(q.shape[-3], dtype=bool)
            matrix = jnp.where(align(past, matrix), matrix, 0)
    else:
        matrix = decayed_products(q, k, log_decay.astype(dtype), is_causal, precision)
    if segment_ids is not None:
        matrix = jnp.where(same_segment(segment_ids)[..., None, :, :], matrix, 0)
    if normalize:
        total = matrix.sum(-1, keepdims=True)
        matrix = matrix / jnp.where(total == 0, 1, total)
    matrix = spoil_rows(matrix, spoiled)
    return (matrix if scale is None else matrix * scale).astype(query.dtype)


def _check(query, key, value, log_decay, feature_map, rank):
    """Refuses wrong shapes; rank 3 with time, 2 without."""
    check_feature_map(feature_map)
    check_rank(rank, query=query, key=key, value=value)
    check_shape("key", key, query.shape, "the shape of query")
    time = "T, " if rank == 3 else ""
    check_shape(
        "value", value, (*query.shape[:-2], *value.shape[-2:]), f"[*B, {time}H, V] beside query"
    )
    groups, heads = query.shape[-2], value.shape[-2]
    require(
        heads % groups == 0,
        f"value has shape {value.shape}: its {heads} heads are not a multiple of the {groups} of "
        f"query, which has shape {query.shape}.",
    )
    if log_decay is not None:
        per_head = value.shape[:-1]
        per_channel = (*per_head, feature_width(query.shape[-1], feature_map))
        require(
            log_decay.shape in (per_head, per_channel),
            f"log_decay has shape {log_decay.shape}; expected [*B, {time}H] = {per_head} or "
            f"[*B, {time}H, K] = {per_channel}.",
        )


def _with_ones(value):
    """A last column of ones: its sums are the denominators."""
    return jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)


def _normalized(y):
    y, total = y[..., :-1], y[..., -1:]
    return y / jnp.where(total == 0, 1, total)


def _global(query, key, value, dtype, precision):
    """Every token attends to every token: one sum, read by all."""
    batch, length, groups, _ = query.shape
    shape = value.shape
    value = value.reshape(batch, length, groups, shape[2] // groups, shape[-1])
    options = {"precision": precision, "preferred_element_type": dtype}
    state = jnp.einsum("btgk,btgrv->bgkrv", key, value, **options)
    y = jnp.einsum("btgk,bgkrv->btgrv", query, state.astype(query.dtype), **options)
    return y.reshape(shape)

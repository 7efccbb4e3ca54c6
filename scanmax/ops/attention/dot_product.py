"""Dot-product attention for any normalizer, by the whole matrix or by blocks, and its weights."""

import math
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.attention.backends import chosen
from scanmax.ops.attention.cudnn import cudnn_attention
from scanmax.ops.attention.native import native_attention
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer, needs_passes
from scanmax.ops.attention.pallas import pallas_attention
from scanmax.ops.attention.parallel import attend, weights_of
from scanmax.ops.attention.passes import stream_passes
from scanmax.ops.attention.streaming import Plan, pack_mask, stream
from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    platform,
    require,
    vary_like,
)
from scanmax.ops.segments import quarantine, same_segment, spoil, spoil_rows

FORMS = (None, "parallel", "chunked")
# form=None: up to this many logits per head the matrix costs what streaming does (CPU, 2 threads,
# forward and training), and it has forward-mode and second derivatives too.
PARALLEL_UP_TO = 256 * 256
# Logits in one block over batch and heads. On CPU a block stays in cache; on accelerators it must
# keep the device busy.
BLOCK_LOGITS = {"cpu": 2**19}
BLOCK_LOGITS_ELSEWHERE = 2**25

Window = int | tuple[int | None, int | None] | None


@op(
    "is_causal",
    "normalizer",
    "logits_soft_cap",
    "local_window_size",
    "form",
    "chunk_size",
    "precision",
    "implementation",
    forward_mode="parallel",
)
def dot_product_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
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
    """Dot-product attention with any normalizer, in jax.nn's argument order.

        l = scale q k^T;   l = cap tanh(l / cap);   l = l + bias;   y = normalizer(l, mask) v

    Query head h reads key head h // (H / G). `is_causal` lets query t attend to keys s <= t, also
    where T and S differ (both sequences start together, as in jax.nn). A window (left, right)
    allows t - left <= s <= t + right; an integer w means (w, w), and None on a side is unbounded.
    All conditions and `mask` must allow a pair. A query that attends to nothing gives 0, and its
    gradients are 0. What lies beyond the sequence lengths, and keys that `mask` hides from every
    query through an axis T of size 1, is never read: it may be NaN.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits, may be traced; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: a name of `NORMALIZERS` ("softmax", "sigmoid", "softplus", "entmax15", ...), or a
        `Normalizer`. "lssar", "sparsemax" and "entmax15" read the keys more than once in the
        chunked form.
      query_seq_lengths: [*B] integers; later queries give 0.
      key_value_seq_lengths: [*B] integers; later keys are masked out.
      segment_ids: [*B, T] integers, T = S; where the number changes a new sequence starts, and no
        token reads another sequence.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed around each query.
      form: "parallel" makes the whole matrix. "chunked" streams over blocks, skips blocks that
        causality or the window empties, keeps the output and two numbers per row, and computes
        the weights again for the gradient (reverse mode of first order; for derivatives beyond
        that take "parallel"). None: "parallel" while T * S <= 256 * 256, else "chunked".
      chunk_size: the largest block of the chunked form: one integer, or (queries, keys). None
        picks it by batch and heads.
      precision: of every matrix product.
      implementation: "xla"; "cudnn" (through jax.nn, on a GPU: softmax in half precision without
        bias, mask, lengths, segments or soft cap); "pallas" (on a TPU, in bfloat16 or float32, a
        mask only of keys, [*B, 1, 1, S], no bias: "softmax" and "softmax_one" by JAX's splash
        attention; "sigmoid", "stablemax" and others whose scores add up without a row's maximum by
        a kernel of ours; on a CPU it is interpreted, to check results by); "cpu" (there, in
        float32, "softmax" and "softmax_one", a mask only of keys, no bias or soft cap: a kernel in
        C++, compiled on first use by a compiler that must be there). None: what serves, where
        neither form nor chunk_size is asked; splash attention from 1024 queries and keys on, on one
        device or under `jax.set_mesh`, whose axes then split rows and heads; "cpu" with
        SCANMAX_NATIVE=1 in the environment.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(6.0).reshape(3, 2, 1)  # [T, H, K]
      >>> ops.dot_product_attention(x, x, x, is_causal=True)[0, :, 0]
      Array([0., 1.], dtype=float32)

    Reference: sigmoid-attention
    """
    check_choice("form", form, FORMS)
    query, key, bias, mask = check_arrays(query, key, value, bias, mask)
    batch, T = query.shape[:-3], query.shape[-3]
    query_seq_lengths = check_lengths("query_seq_lengths", query_seq_lengths, batch)
    key_value_seq_lengths = check_lengths("key_value_seq_lengths", key_value_seq_lengths, batch)
    chunks = chunks_of(chunk_size, query, key)
    left, right = window_of(local_window_size, is_causal)
    normalizer = get_normalizer(normalizer, query.shape[-1])
    given_scale, scale = scale, scale_of(scale, query)

    check_segments(segment_ids, query, key)
    backend = chosen(
        implementation,
        query,
        key,
        value,
        mask,
        normalizer,
        (left, right),
        {
            "bias": bias is not None,
            "mask": mask is not None,
            "query_seq_lengths": query_seq_lengths is not None,
            "key_value_seq_lengths": key_value_seq_lengths is not None,
            "segment_ids": segment_ids is not None,
            "logits_soft_cap": logits_soft_cap is not None,
            "precision": precision is not None,
            "chunk_size": chunk_size is not None,
            f"form={form!r}": form is not None,
        },
    )
    if backend == "cudnn":
        try:
            return cudnn_attention(query, key, value, given_scale, left, right)
        except (NotImplementedError, RuntimeError, ValueError):
            # an older GPU or cuDNN: refused while tracing
            if implementation is not None:
                raise

    (query, key, value), _, spoiled = quarantine(
        segment_ids, (query, key, value), factors=2, is_causal=is_causal
    )
    key, value = clear_hidden(key, value, mask, key_value_seq_lengths)
    if query_seq_lengths is not None:
        asked = within(query_seq_lengths, T)
        query = jnp.where(asked, query, jnp.zeros_like(query))
    if backend == "pallas":
        options = ((left, right), logits_soft_cap, segment_ids)
        visible = _visible(key, mask, key_value_seq_lengths)
        y = pallas_attention(normalizer, query, key, value, scale, *options, visible)
    elif backend == "cpu":
        visible = _visible(key, mask, key_value_seq_lengths)
        y = native_attention(
            normalizer, query, key, value, scale, (left, right), segment_ids, visible
        )
    else:
        y = evaluate(
            normalizer,
            query,
            key,
            value,
            bias,
            mask,
            scale,
            (left, right),
            key_value_seq_lengths,
            logits_soft_cap,
            precision,
            form,
            chunks,
            segment_ids=segment_ids,
        )
    if query_seq_lengths is not None:
        y = jnp.where(asked, y, jnp.zeros_like(y))
    return spoil(y, spoiled)


@op("is_causal", "normalizer", "logits_soft_cap", "local_window_size", "precision")
def attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
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
    """The weights by which `dot_product_attention` mixes the values.

        P = normalizer(cap tanh(scale q k^T / cap) + bias, mask)

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits, may be traced; None is K ** -0.5.
      is_causal: as in `dot_product_attention`, like all that follow.
      normalizer: a name or a `Normalizer`.
      query_seq_lengths: [*B] integers.
      key_value_seq_lengths: [*B] integers.
      segment_ids: [*B, T] integers.
      logits_soft_cap: bounds the logits, before bias and masks.
      local_window_size: keys allowed around each query.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query; 0 where a query may not attend.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 1, 4))  # [T, H, K]
      >>> ops.attention_matrix(x, x, is_causal=True)[0]
      Array([[1. , 0. ],
             [0.5, 0.5]], dtype=float32)

    Reference: sigmoid-attention
    """
    dtype = query.dtype
    query, key, bias, mask = check_arrays(query, key, None, bias, mask)
    batch, T = query.shape[:-3], query.shape[-3]
    query_seq_lengths = check_lengths("query_seq_lengths", query_seq_lengths, batch)
    key_value_seq_lengths = check_lengths("key_value_seq_lengths", key_value_seq_lengths, batch)
    check_segments(segment_ids, query, key)
    (query, key), _, spoiled = quarantine(segment_ids, (query, key), factors=2, is_causal=is_causal)
    key, _ = clear_hidden(key, None, mask, key_value_seq_lengths)
    mask = _with_segments(mask, segment_ids)
    if query_seq_lengths is not None:
        asked = within(query_seq_lengths, T)  # [*B, T, 1, 1]
        query = jnp.where(asked, query, jnp.zeros_like(query))
    normalizer = get_normalizer(normalizer, query.shape[-1])
    weights = weights_of(
        normalizer,
        query,
        key,
        bias,
        mask,
        scale_of(scale, query),
        window_of(local_window_size, is_causal),
        key_value_seq_lengths,
        logits_soft_cap,
        precision,
    )
    if query_seq_lengths is not None:
        weights = jnp.where(jnp.moveaxis(asked, -3, -2), weights, jnp.zeros_like(weights))
    return spoil_rows(weights.astype(dtype), spoiled)


def check_arrays(query, key, value, bias, mask):
    """Refuses what does not fit; returns query and key of one dtype, bias and mask of full rank."""
    check_rank(3, query=query, key=key, value=value)
    *batch, T, H, K = query.shape
    S, G = key.shape[-3:-1]
    require(
        G > 0 and H % G == 0,
        f"key has shape {key.shape}: its {G} heads do not divide the {H} heads of query, whose "
        f"shape is {query.shape}.",
    )
    check_shape("key", key, (*batch, S, G, K), "[*B, S, G, K]")
    if value is not None:
        check_shape("value", value, (*batch, S, G, value.shape[-1]), "[*B, S, G, V]")
    for name, array in (("query", query), ("key", key), ("value", value), ("bias", bias)):
        require(
            array is None or jnp.issubdtype(array.dtype, jnp.floating),
            f"{name} has dtype {getattr(array, 'dtype', None)}; expected a floating one.",
        )
    require(
        mask is None or mask.dtype == bool,
        f"mask has dtype {getattr(mask, 'dtype', None)}; expected bool, True = attend. "
        "Add a float mask as bias.",
    )
    full = (*batch, H, T, S)
    bias = _full_rank("bias", bias, full)
    mask = _full_rank("mask", mask, full)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(query.dtype, key.dtype)
    return query.astype(dtype), key.astype(dtype), bias, mask


def _full_rank(name, x, full):
    if x is None:
        return None
    shape = (1,) * (len(full) - x.ndim) + x.shape
    fits = len(shape) == len(full) and all(a in (1, b) for a, b in zip(shape, full))
    require(fits, f"{name} has shape {x.shape}; expected to broadcast to [*B, H, T, S] = {full}.")
    return x.reshape(shape)


def check_lengths(name, lengths, batch):
    if lengths is None:
        return None
    check_shape(name, lengths, batch, "[*B]")
    require(
        jnp.issubdtype(lengths.dtype, jnp.integer),
        f"{name} has dtype {lengths.dtype}; expected integers.",
    )
    return lengths.astype(jnp.int32)


def check_segments(segment_ids, query, key):
    if segment_ids is not None:
        check_shape("segment_ids", segment_ids, query.shape[:-2], "[*B, T]")
        check_shape("segment_ids", segment_ids, key.shape[:-2], "[*B, S], one for each key")


def _with_segments(mask, segment_ids):
    """The mask, and only pairs of one segment."""
    if segment_ids is None:
        return mask
    same = same_segment(segment_ids)[..., None, :, :]
    return same if mask is None else mask & same


def scale_of(scale, query):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scale = jnp.asarray(scale, None if hasattr(scale, "dtype") else accumulator_dtype(query))
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    return scale


def window_of(size, is_causal):
    """(left, right) as integers or None for unbounded."""
    left, right = size if isinstance(size, tuple) else (size, size)
    require(
        all(side is None or side >= 0 for side in (left, right)),
        f"local_window_size={size} is negative; expected the numbers of keys to each side.",
    )
    return left, 0 if is_causal else right


def chunks_of(chunk_size, query, key):
    """Block sizes: those asked for, or some that fill BLOCK_LOGITS; evened out over the lengths."""
    *batch, T, H, _ = query.shape
    S, rows = key.shape[-3], math.prod(batch) * H
    if chunk_size is None:
        logits = BLOCK_LOGITS.get(platform(), BLOCK_LOGITS_ELSEWHERE) // max(rows, 1)
        exponent = max(logits.bit_length() - 1, 14)
        queries = max(min(2 ** (exponent // 2), T), 1)
        keys = max(min(2**exponent // queries, S), 1)
        queries = 2**exponent // keys
    else:
        queries, keys = chunk_size if isinstance(chunk_size, tuple) else (chunk_size, chunk_size)
        require(
            all(isinstance(size, Integral) and size >= 1 for size in (queries, keys)),
            f"chunk_size={chunk_size}; expected a positive integer or (queries, keys).",
        )
    return _even(T, queries), _even(S, keys)


def _even(length, largest):
    """The block size that covers length in as few blocks with the least padding."""
    return max(-(-length // -(-length // largest)), 1) if length else 1


def within(lengths, size):
    """[*B] -> [*B, size, 1, 1]: True before the length."""
    positions = jnp.arange(size, dtype=lengths.dtype)
    positions = positions.reshape((1,) * lengths.ndim + (size, 1, 1))
    return positions < lengths[..., None, None, None]


def clear_hidden(key, value, mask, lengths):
    """Zeros in place of keys and values that no query sees: 0 * NaN would be NaN."""
    seen = _visible(key, mask, lengths)
    if seen is None:
        return key, value
    seen = seen[..., None, None]
    key, value = (x if x is None else jnp.where(seen, x, jnp.zeros_like(x)) for x in (key, value))
    return key, value


def _visible(key, mask, lengths):
    """Which keys some query may see by lengths and a mask of keys, [*B, S] or so; None for all."""
    seen = None if lengths is None else within(lengths, key.shape[-3])[..., 0, 0]
    if mask is not None and mask.shape[-2] == 1 and mask.shape[-1] == key.shape[-3]:
        by_mask = jnp.any(mask, (-3, -2))
        seen = by_mask if seen is None else seen & by_mask
    return seen


def evaluate(
    normalizer,
    query,
    key,
    value,
    bias,
    mask,
    scale,
    window,
    lengths,
    cap,
    precision,
    form,
    chunks,
    relative=None,
    terms=(),
    segment_ids=None,
):
    """Either form, on checked arrays: [*B, T, H, V] in the dtype of value.

    `relative` is a term of `relative_term`, `terms` its arrays.
    """
    T, S = query.shape[-3], key.shape[-3]
    if form is None:
        form = "parallel" if T * S <= PARALLEL_UP_TO else "chunked"
    if form == "parallel" or T * S == 0:
        mask = _with_segments(mask, segment_ids)
        rest = (window, lengths, cap, precision, relative, terms)
        return attend(normalizer, query, key, value, bias, mask, scale, *rest)
    plan = Plan(normalizer, *window, cap, chunks, precision, relative)
    arrays = (query, key, value, bias, pack_mask(mask, segment_ids), scale, lengths, *terms)
    # under shard_map a custom gradient must vary as its argument does: make all vary alike,
    # and the transpose of that sums the gradient of a replicated one
    by_blocks = stream_passes if needs_passes(normalizer) else stream
    leaves = jax.tree.leaves(arrays)
    return by_blocks(plan, *jax.tree.map(lambda x: vary_like(x, *leaves), arrays))

"""Cosine attention whose temperature grows with the logarithm of the number of keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


def unit_vectors(x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
    """x / |x| along the last axis; 0, with gradient 0, for a vector of zeros."""
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    empty = square == 0
    return x * jnp.where(empty, 0, jax.lax.rsqrt(jnp.where(empty, jnp.ones_like(square), square)))


def scaled_queries(
    query: Float[Array, "*B T H K"],
    temperature: Float[Array, "H"],
    query_embedding: Float[Array, "H K"] | None,
    num_keys: Real[Array, "*B T"] | Real[Array, "T"] | int,
) -> Float[Array, "*B T H K"]:
    """(q / |q| + e_h) softplus(tau_h) log n, in accumulator precision.

    What every attention on these logits multiplies its unit keys by; num_keys holds one number, or
    one for each query.
    """
    *batch, T, H, K = query.shape
    check_shape("temperature", temperature, (H,), "[H]")
    dtype = accumulator_dtype(query, temperature, query_embedding)
    query = unit_vectors(query.astype(dtype))
    ones = (1,) * (len(batch) + 1)
    if query_embedding is not None:
        check_shape("query_embedding", query_embedding, (H, K), "[H, K]")
        query = query + query_embedding.astype(dtype).reshape(*ones, H, K)
    counts = jnp.asarray(num_keys)
    allowed = ((), (1,), (T,), (*batch, 1), (*batch, T))
    require(
        counts.shape in allowed,
        f"num_keys has shape {counts.shape}; expected a number, [T] or [*B, T] = {(*batch, T)}.",
    )
    length = jnp.log(jnp.maximum(counts.astype(dtype), 1))
    length = length.reshape((1,) * (len(batch) + 1 - length.ndim) + length.shape)
    rate = jax.nn.softplus(temperature.astype(dtype)).reshape(*ones, H, 1)
    return query * (rate * length[..., None, None])


def readable_keys(T: int, S: int, is_causal: bool, lengths=None) -> jax.Array | int:
    """How many keys each of T queries may read: a number, [T], [*B, 1] or [*B, T]."""
    if lengths is not None:
        lengths = lengths[..., None]
    if not is_causal:
        return S if lengths is None else lengths
    counts = jnp.minimum(jnp.arange(1, T + 1), S).astype(jnp.int32)
    if lengths is None:
        return counts
    counts = counts.reshape((1,) * (lengths.ndim - 1) + counts.shape)
    return jnp.minimum(counts, lengths.astype(counts.dtype))


def _query_and_key(query, key, temperature, query_embedding, num_keys, is_causal, lengths):
    check_rank(3, query=query, key=key)
    if num_keys is None:
        num_keys = readable_keys(query.shape[-3], key.shape[-3], is_causal, lengths)
    dtype = query.dtype
    query = scaled_queries(query, temperature, query_embedding, num_keys).astype(dtype)
    return query, unit_vectors(key.astype(accumulator_dtype(key))).astype(key.dtype)


@op(
    "is_causal",
    "normalizer",
    "form",
    "chunk_size",
    "precision",
    "implementation",
    forward_mode="parallel",
)
def length_scaled_cosine_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    temperature: Float[Array, "H"],
    query_embedding: Float[Array, "H K"] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    num_keys: Real[Array, "..."] | int | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
    implementation=None,
) -> Float[Array, "*B T H V"]:
    """Attention on the cosine of queries and keys, scaled by the logarithm of their number.

        l_ts = softplus(tau_h) log(n_t) (q_t / |q_t| + e_h) . k_s / |k_s| + bias;   y = softmax(l) v

    The logarithm keeps the entropy of a row where it was when the number of keys grows; e_h is a
    learned query that every token has in common.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      temperature: [H], tau.
      query_embedding: [H, K], e; None is 0.
      bias: added to the logits, broadcasts to [*B, H, T, S]; from `log_spaced_coordinates`, say.
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      num_keys: n, a number, [T] or [*B, T]. None counts the keys before the lengths, up to the
        query where `is_causal`; keys that `mask` hides are counted too.
      is_causal: mask out the keys after each query.
      normalizer: as in `dot_product_attention`, like all that follow.
      key_value_seq_lengths: [*B] integers; later keys are masked out.
      form: "parallel" or "chunked".
      chunk_size: the largest block of the chunked form.
      precision: of every matrix product.
      implementation: "xla", or "cudnn" where it serves.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.
      NotImplementedError: implementation="cudnn" where it cannot serve.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0]], [[-3.0]]])  # [T, H, K], a length of one in either direction
      >>> (100 * ops.length_scaled_cosine_attention(x, x, x, jnp.ones(1))[:, 0, 0]).astype(int)
      Array([  44, -244], dtype=int32)

    Reference: transnext
    """
    query, key = _query_and_key(
        query, key, temperature, query_embedding, num_keys, is_causal, key_value_seq_lengths
    )
    return dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        scale=1.0,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
        implementation=implementation,
    )


@op("is_causal", "normalizer", "precision")
def length_scaled_cosine_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    temperature: Float[Array, "H"],
    query_embedding: Float[Array, "H K"] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    num_keys: Real[Array, "..."] | int | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `length_scaled_cosine_attention` mixes the values.

    P = softmax(softplus(tau_h) log(n_t) (q_t / |q_t| + e_h) . k_s / |k_s| + bias)

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      temperature: [H], tau.
      query_embedding: [H, K], e; None is 0.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      num_keys: n; None counts.
      is_causal: as in `length_scaled_cosine_attention`, like all that follow.
      normalizer: a name or a `Normalizer`.
      key_value_seq_lengths: [*B] integers.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[[1.0]], [[-3.0]]])
      >>> (100 * ops.length_scaled_cosine_attention_matrix(x, x, jnp.ones(1))[0]).astype(int)
      Array([[86, 13],
             [13, 86]], dtype=int32)

    Reference: transnext
    """
    query, key = _query_and_key(
        query, key, temperature, query_embedding, num_keys, is_causal, key_value_seq_lengths
    )
    return attention_matrix(
        query,
        key,
        bias,
        mask,
        scale=1.0,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )


@op("form", "chunk_size", "precision", forward_mode="parallel")
def cosine_support_attention(
    query: Float[Array, "*B T D"],
    support: Float[Array, "*B S D"],
    labels: Float[Array, "*B S C"],
    mask: Bool[Array, "*B S"] | None = None,
    *,
    scale: Float[Array, ""] | float = 1.0,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T C"]:
    """Labels of queries by attention over a few examples that have one: matching networks.

        p_t = sum_s a_ts labels_s,    a_t = softmax_s(scale cos(query_t, support_s))

    Args:
      query: vectors whose labels are asked for.
      support: vectors whose labels are known.
      labels: of the support, one-hot or shares; p are shares of them.
      mask: the examples that are there; None is all. Where there are none, p is 0.
      scale: of the cosines; 1 in the paper.
      form: "parallel" or "chunked", as in `dot_product_attention`.
      chunk_size: the largest block of the chunked form.
      precision: of both products.

    Returns:
      [*B, T, C] in the dtype of labels.

    Raises:
      ValueError: arrays whose shapes do not fit, or an unknown form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> support, labels = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.eye(2)
      >>> ops.cosine_support_attention(jnp.array([[5.0, 5.0]]), support, labels)
      Array([[0.5, 0.5]], dtype=float32)

    Reference: matching-networks
    """
    check_rank(2, query=query, support=support, labels=labels)
    *batch, count, dim = support.shape
    check_shape("query", query, (*batch, query.shape[-2], dim), "[*B, T, D]")
    check_shape("labels", labels, (*batch, count, labels.shape[-1]), "[*B, S, C]")
    check_shape("mask", mask, (*batch, count), "[*B, S]")
    dtype = accumulator_dtype(query, support)
    if mask is not None:
        support = jnp.where(mask[..., None], support, jnp.zeros_like(support))
    query, support = (unit_vectors(x.astype(dtype)).astype(x.dtype) for x in (query, support))
    y = dot_product_attention(
        query[..., None, :],
        support[..., None, :],
        labels[..., None, :],
        mask=None if mask is None else mask[..., None, None, :],
        scale=scale,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
    )
    return y[..., 0, :]

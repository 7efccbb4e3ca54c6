"""Attention that decays with the distance of query and key: ALiBi, Manhattan decay, their masks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.attention.relative_term import Distance, relative_attention, relative_matrix
from scanmax.ops.contract import accumulator_dtype, check_grid, check_rank, check_shape, op, require


@op("num_heads", "dtype")
def alibi_slopes(num_heads: int, *, dtype=jnp.float32) -> Float[Array, "H"]:
    """The slopes of attention with linear biases (ALiBi), steepest first.

    m_h = 2^(-8 h / H) for h = 1, ..., H, a power of two; otherwise the slopes of the next smaller
    power of two, then every other one of those of the next larger, as the released code has it. The
    bias is -m_h times the distance: `distance_attention` takes log_decay = -m.

    Args:
      num_heads: H.
      dtype: of the slopes; they are computed in float64 and rounded once.

    Returns:
      [H], positive.

    Raises:
      ValueError: num_heads is not positive.

    Example:
      >>> from scanmax import ops
      >>> ops.alibi_slopes(3).tolist()
      [0.0625, 0.00390625, 0.25]

    Reference: sigmoid-attention
    """
    require(num_heads >= 1, f"num_heads={num_heads} must be positive.")
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return jnp.asarray(np.concatenate([slopes, between])[:num_heads], dtype)


def _decay_mask(log_decay, places):
    """exp(log_decay_h |p_t - p_s|_1), [H, T, T]."""
    require(log_decay.ndim == 1, f"log_decay has shape {log_decay.shape}; expected [H].")
    rate = log_decay.astype(accumulator_dtype(log_decay))
    distance = jnp.asarray(np.abs(places[:, None] - places[None]).sum(-1), rate.dtype)
    return jnp.exp(rate[:, None, None] * distance[None]).astype(log_decay.dtype)


@op("length")
def decay_mask_1d(log_decay: Float[Array, "H"], length: int) -> Float[Array, "H T T"]:
    """Weight of every pair of tokens on a line, falling with their distance in both directions.

    D[h, t, s] = exp(log_decay_h |t - s|)

    Args:
      log_decay: [H], at most 0: the logarithm of the decay per step.
      length: T.

    Returns:
      [H, T, T] in the dtype of log_decay.

    Raises:
      ValueError: log_decay is not a vector.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.decay_mask_1d(jnp.log(jnp.array([0.5])), 3)[0]
      Array([[1.  , 0.5 , 0.25],
             [0.5 , 1.  , 0.5 ],
             [0.25, 0.5 , 1.  ]], dtype=float32)

    Reference: rmt-masa
    """
    return _decay_mask(log_decay, np.arange(length)[:, None])


@op("grid")
def decay_mask_2d(log_decay: Float[Array, "H"], grid: tuple[int, int]) -> Float[Array, "H T T"]:
    """Weight of every pair of tokens of a grid, falling with their Manhattan distance.

    D[h, t, s] = exp(log_decay_h (|y_t - y_s| + |x_t - x_s|)), the Kronecker product of
    `decay_mask_1d` over the rows and over the columns. Tokens run row by row.

    Args:
      log_decay: [H], at most 0: the logarithm of the decay per step.
      grid: (Y, X); T = Y * X.

    Returns:
      [H, T, T] in the dtype of log_decay.

    Raises:
      ValueError: log_decay is not a vector.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.decay_mask_2d(jnp.log(jnp.array([0.5])), (2, 2))[0, 0]
      Array([1.  , 0.5 , 0.5 , 0.25], dtype=float32)

    Reference: rmt-masa
    """
    check_grid("grid", grid)
    places = np.stack([axis.reshape(-1) for axis in np.indices(grid)], -1)
    return _decay_mask(log_decay, places)


def _places(name, positions, length, axes):
    """Positions [T] or [T, A] as [T, A]; None counts from 0."""
    if positions is None:
        positions = jnp.arange(length, dtype=jnp.int32)
    if positions.ndim == 1:
        positions = positions[:, None]
    require(
        positions.ndim == 2 and positions.shape[0] == length and positions.shape[1] == axes,
        f"{name} has shape {positions.shape}; expected [T] or [T, A] = ({length}, {axes}).",
    )
    return positions


def _terms(query, key, log_decay, query_positions, key_positions):
    check_rank(3, query=query, key=key)
    check_shape("log_decay", log_decay, query.shape[-2:-1], "[H]")
    if key_positions is None and query.shape[-3] == key.shape[-3]:
        key_positions = query_positions
    given = query_positions if query_positions is not None else key_positions
    axes = 1 if given is None or given.ndim == 1 else given.shape[1]
    places = (
        _places("query_positions", query_positions, query.shape[-3], axes),
        _places("key_positions", key_positions, key.shape[-3], axes),
    )
    return (log_decay, *places)


@op(
    "placement",
    "prefix_tokens",
    "is_causal",
    "normalizer",
    "form",
    "chunk_size",
    "precision",
    forward_mode="parallel",
)
def distance_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    log_decay: Float[Array, "H"],
    query_positions: Real[Array, "T"] | Real[Array, "T A"] | None = None,
    key_positions: Real[Array, "S"] | Real[Array, "S A"] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    placement: str = "logits",
    prefix_tokens: int | tuple[int, int] = 0,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention that decays with the distance |p_t - p_s|_1 of query and key.

        placement "logits":   y = softmax(scale q k^T + log_decay_h |p_t - p_s|_1) v
        placement "weights":  y = (softmax(scale q k^T) * exp(log_decay_h |p_t - p_s|_1)) v

    On the logits and with positions on a line it is ALiBi (log_decay = -`alibi_slopes`), with
    positions on a grid the Manhattan decay that RMT's released code computes; on the weights it is
    RMT's printed formula, whose rows sum to less than one. Distances are made block by block, so
    the chunked form needs no T by S array.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      log_decay: [H], at most 0 to decay; learned ones get their gradient.
      query_positions: [T] on a line, or [T, A] in A dimensions; None is 0, 1, ..., T - 1. They
        get no gradient.
      key_positions: [S] or [S, A]; None is as the queries' where T is S, else 0, 1, ..., S - 1.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      placement: "logits" or "weights".
      prefix_tokens: how many of the first queries and keys have no position, as class tokens: their
        distances are 0. Two numbers where queries and keys differ.
      scale: scalar factor of the logits; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: as in `dot_product_attention`, like all that follow.
      form: "parallel" or "chunked".
      chunk_size: the largest block of the chunked form.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, value = jnp.zeros((2, 1, 4)), jnp.array([[[0.0]], [[3.0]]])
      >>> ops.distance_attention(x, x, value, -jnp.log(jnp.array([2.0]))).round(3)[:, 0, 0]
      Array([1., 2.], dtype=float32)

    Reference: rmt-masa
    """
    prefix = (prefix_tokens, prefix_tokens) if isinstance(prefix_tokens, int) else prefix_tokens
    return relative_attention(
        Distance(placement, prefix),
        _terms(query, key, log_decay, query_positions, key_positions),
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
    )


@op("placement", "prefix_tokens", "is_causal", "normalizer", "precision")
def distance_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    log_decay: Float[Array, "H"],
    query_positions: Real[Array, "T"] | Real[Array, "T A"] | None = None,
    key_positions: Real[Array, "S"] | Real[Array, "S A"] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    placement: str = "logits",
    prefix_tokens: int | tuple[int, int] = 0,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `distance_attention` mixes the values.

    P = softmax(l + log D) or softmax(l) * D, with D = exp(log_decay_h |p_t - p_s|_1)

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      log_decay: [H].
      query_positions: [T] or [T, A]; None is 0, 1, ..., T - 1.
      key_positions: [S] or [S, A].
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      placement: "logits" or "weights".
      prefix_tokens: as in `distance_attention`, like all that follow.
      scale: scalar factor of the logits; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: a name or a `Normalizer`.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, decay = jnp.zeros((3, 1, 4)), jnp.log(jnp.array([0.5]))
      >>> (90 * ops.distance_attention_matrix(x, x, decay, placement="weights")[0]).round()
      Array([[30., 15.,  8.],
             [15., 30., 15.],
             [ 8., 15., 30.]], dtype=float32)

    Reference: rmt-masa
    """
    prefix = (prefix_tokens, prefix_tokens) if isinstance(prefix_tokens, int) else prefix_tokens
    return relative_matrix(
        Distance(placement, prefix),
        _terms(query, key, log_decay, query_positions, key_positions),
        query,
        key,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        precision=precision,
    )

"""Cross-attentions around a backbone: chosen queries, keys of another image, queries by condition.

Each is `dot_product_attention` with its queries or keys put together in another way, so all its
forms serve; the rollout says which tokens the class token has read through all layers.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.attention.dot_product import dot_product_attention
from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


@op("num_queries", "precision")
def attention_rollout(
    matrices: Sequence[Float[Array, "*B _ T T"]],
    *,
    num_queries: int | None = None,
    residual: Float[Array, ""] | float = 0.5,
    precision=None,
) -> Float[Array, "*B Q T"]:
    """How much of every input token has reached each output token through all layers.

        S = S_L ... S_1,   S_l = residual I + (1 - residual) mean_h A_l

    Only the rows asked for are carried from the last layer to the first: the class token's cost
    L T^2, where the whole product costs L T^3.

    Args:
      matrices: [*B, H, T, T] of each layer, first layer first, as mixers sow them.
      num_queries: how many leading rows are wanted; None is all T.
      residual: the share of the skip connection.
      precision: of every matrix product.

    Returns:
      [*B, Q, T] in the dtype of the matrices; rows sum to one where those of the matrices do.

    Raises:
      ValueError: no matrices, matrices of different shapes or not square, or num_queries beyond T.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> shift = jnp.array([[[0.0, 1.0], [0.0, 1.0]]])  # both tokens read the second
      >>> ops.attention_rollout([shift, shift], num_queries=1)
      Array([[0.25, 0.75]], dtype=float32)

    Reference: dcal
    """
    require(len(matrices) > 0, "matrices is empty; expected one [*B, H, T, T] for each layer.")
    check_rank(3, **{f"matrices[{i}]": matrix for i, matrix in enumerate(matrices)})
    *batch, _, T, S = matrices[0].shape
    require(T == S, f"matrices[0] has shape {matrices[0].shape}; expected [*B, H, T, T].")
    for i, matrix in enumerate(matrices):
        expected = (*batch, matrix.shape[-3], T, T)
        check_shape(f"matrices[{i}]", matrix, expected, "[*B, H, T, T]")
    rows = T if num_queries is None else num_queries
    require(1 <= rows <= T, f"num_queries={num_queries}: expected 1 to T = {T}.")
    dtype = accumulator_dtype(*matrices)
    share = jnp.asarray(residual, dtype)
    rollout = jnp.broadcast_to(jnp.eye(rows, T, dtype=dtype), (*batch, rows, T))
    for matrix in reversed(matrices):
        heads, matrix = matrix.shape[-3], matrix.astype(dtype)
        if rows * heads <= T:
            # few rows: all heads in one product, and no matrix of their means
            stacked = matrix.reshape(*batch, heads * T, T)
            read = jnp.matmul(jnp.tile(rollout, heads), stacked, precision=precision) / heads
        else:
            read = jnp.matmul(rollout, jnp.mean(matrix, -3), precision=precision)
        rollout = share * rollout + (1 - share) * read
    return rollout.astype(matrices[0].dtype)


@op("num_queries", "prefix_tokens", "form", "precision", forward_mode="parallel")
def global_local_cross_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    scores: Float[Array, "*B T"],
    *,
    num_queries: int,
    prefix_tokens: int = 0,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    precision=None,
) -> tuple[Float[Array, "*B R H V"], Int[Array, "*B R"]]:
    """Attention of the tokens with the highest scores to all keys.

        y_r = softmax(scale q_{i_r} k^T) v,   i = the R highest scores, in the order of the tokens

    The scores are the class token's row of `attention_rollout`; no gradient reaches them. The
    paper takes about a tenth of the tokens to tell species apart, 30 % to find persons again.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      scores: [*B, T]; of equal ones the first counts as higher.
      num_queries: R, with the prefix.
      prefix_tokens: leading tokens that are always among the R, whatever their scores.
      scale: of the logits, may be traced; None is K ** -0.5.
      form: as in `dot_product_attention`.
      precision: of every matrix product.

    Returns:
      (y [*B, R, H, V] in the dtype of value, the token of each row [*B, R]).

    Raises:
      ValueError: num_queries is not in prefix_tokens..T, or a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(3.0).reshape(3, 1, 1)
      >>> scores = jnp.array([0.1, 0.2, 0.7])
      >>> _, token = ops.global_local_cross_attention(x, x, x, scores, num_queries=2)
      >>> token
      Array([1, 2], dtype=int32)

    Reference: dcal
    """
    check_rank(3, query=query)
    T = query.shape[-3]
    check_shape("scores", scores, query.shape[:-2], "[*B, T]")
    require(
        max(prefix_tokens, 1) <= num_queries <= T,
        f"num_queries={num_queries}: expected {max(prefix_tokens, 1)} to T = {T}.",
    )
    scores = lax.stop_gradient(scores)
    is_prefix = jnp.broadcast_to(jnp.arange(T) < prefix_tokens, scores.shape)
    scores = jnp.where(is_prefix, jnp.full_like(scores, jnp.inf), scores)
    token = jnp.sort(lax.top_k(scores, num_queries)[1], -1)
    chosen = jnp.take_along_axis(query, token[..., None, None], -3)
    y = dot_product_attention(chosen, key, value, scale=scale, form=form, precision=precision)
    return y, token


@op("form", "precision", forward_mode="parallel")
def pairwise_cross_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    other_key: Float[Array, "*B S2 G K"],
    other_value: Float[Array, "*B S2 G V"],
    other_mask: Bool[Array, "*B S2"] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention of one image disturbed by the keys and values of another, under one softmax.

        y = softmax(scale q [k; k']^T) [v; v']

    For training alone: the label stays that of the first image, and inference uses plain attention
    with the same weights.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      other_key: [*B, S', G, K] of the other image.
      other_value: [*B, S', G, V].
      other_mask: [*B, S'], True where the other image's token is read; None is everywhere.
      scale: of the logits, may be traced; None is K ** -0.5.
      form: as in `dot_product_attention`.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((2, 1, 1))
      >>> ops.pairwise_cross_attention(x, x, x, x, 3 * x)[:, 0, 0]
      Array([2., 2.], dtype=float32)

    Reference: dcal
    """
    check_rank(3, query=query, key=key, value=value, other_key=other_key, other_value=other_value)
    *batch, S, G, _ = key.shape
    others = other_key.shape[-3]
    check_shape("other_key", other_key, (*batch, others, *key.shape[-2:]), "[*B, S', G, K]")
    expected = (*batch, others, G, value.shape[-1])
    check_shape("other_value", other_value, expected, "[*B, S', G, V]")
    mask = None
    if other_mask is not None:
        check_shape("other_mask", other_mask, (*batch, others), "[*B, S']")
        mask = jnp.concatenate([jnp.ones((*batch, S), bool), other_mask], -1)[..., None, None, :]
    return dot_product_attention(
        query,
        jnp.concatenate([key, other_key], -3),
        jnp.concatenate([value, other_value], -3),
        mask=mask,
        scale=scale,
        form=form,
        precision=precision,
    )


@op("form", "precision", forward_mode="parallel")
def conditional_cross_attention(
    queries: Float[Array, "A Q H K"],
    condition: Int[Array, "*B"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    *,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    precision=None,
) -> Float[Array, "*B Q H V"]:
    """Attention whose queries are those of a condition instead of the tokens'.

        y = softmax(scale queries[condition] k^T) v

    One backbone then embeds an image once for each condition (attribute): switching it weighs the
    same tokens anew. The queries of a table of learned rows and those of a linear map of one-hot
    conditions are the same table. How many queries a condition has is not settled by the paper's
    abstract or public code; any Q is taken, one vector or one for each token.

    Args:
      queries: [A, Q, H, K], Q for each of A conditions.
      condition: [*B] integers in 0..A - 1; others give NaN.
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      scale: of the logits, may be traced; None is K ** -0.5.
      form: as in `dot_product_attention`.
      precision: of every matrix product.

    Returns:
      [*B, Q, H, V] in the dtype of value.

    Raises:
      ValueError: a shape that does not fit, or a condition that is not of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> queries = jnp.array([-50.0, 50.0]).reshape(2, 1, 1, 1)  # of the lowest, of the highest
      >>> x = jnp.arange(3.0).reshape(3, 1, 1)
      >>> ops.conditional_cross_attention(queries, jnp.array(1), x, x)[0, 0]
      Array([2.], dtype=float32)

    Reference: conditional-cross-attention
    """
    check_rank(3, key=key, value=value)
    require(queries.ndim == 4, f"queries has shape {queries.shape}; expected [A, Q, H, K].")
    check_shape("condition", condition, key.shape[:-3], "[*B]")
    require(
        jnp.issubdtype(condition.dtype, jnp.integer),
        f"condition has dtype {condition.dtype}; expected integers.",
    )
    query = queries.at[condition].get(mode="fill", fill_value=jnp.nan)
    return dot_product_attention(query, key, value, scale=scale, form=form, precision=precision)

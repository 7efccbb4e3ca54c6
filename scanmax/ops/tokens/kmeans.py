"""k-means cross-attention: every pixel is given to one query, whole."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, platform


def _choice(query, key, precision):
    """[*B, H, S]: the query that each pixel is nearest to, without a gradient."""
    check_rank(3, query=query, key=key)
    *batch, _, H, K = query.shape
    check_shape("key", key, (*batch, key.shape[-3], H, K), "[*B, S, H, K]")
    dtype = accumulator_dtype(query, key)
    query, key = jax.lax.stop_gradient((query.astype(dtype), key.astype(dtype)))
    affinity = jnp.einsum("...mhk,...shk->...hsm", query, key, precision=precision)
    return jnp.argmax(affinity, axis=-1)


@op("precision")
def kmeans_cross_attention(
    query: Float[Array, "*B M H K"],
    key: Float[Array, "*B S H K"],
    value: Float[Array, "*B S H V"],
    *,
    precision=None,
) -> Float[Array, "*B M H V"]:
    """The sum of the values that choose a query: cross-attention with an argmax over the queries.

        y_m = sum_s a_ms v_s,   a_ms = 1 where m = argmax_n q_n . k_s, else 0

    Softmax attention normalises over the pixels s; here the queries compete for each pixel, as
    centres do in k-means, and C + y is a step of it. Gradients pass through the values alone: the
    affinities learn as mask logits, by a loss of their own. The paper has one head. Cost is linear
    in S.

    Args:
      query: [*B, M, H, K] the cluster centres.
      key: [*B, S, H, K] the pixels.
      value: [*B, S, H, V].
      precision: of the matrix products.

    Returns:
      [*B, M, H, V] in the dtype of value; 0 for a query that no pixel chooses.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> centers = jnp.array([1.0, -1.0]).reshape(2, 1, 1)
      >>> pixels = jnp.array([2.0, 3.0, -4.0]).reshape(3, 1, 1)
      >>> ops.kmeans_cross_attention(centers, pixels, pixels)[:, 0, 0]
      Array([ 5., -4.], dtype=float32)

    Reference: kmax-deeplab
    """
    check_rank(3, value=value)
    check_shape("value", value, (*key.shape[:-1], value.shape[-1]), "[*B, S, H, V]")
    choice, M = _choice(query, key, precision), query.shape[-3]
    dtype = accumulator_dtype(query, key, value)
    if platform() == "cpu":
        # each pixel added to its row: up to four times as fast as the product with the assignment
        rows = jnp.moveaxis(value.astype(dtype), -2, -3)
        add = functools.partial(jax.ops.segment_sum, num_segments=M)
        y = jnp.moveaxis(jnp.vectorize(add, signature="(s,v),(s)->(m,v)")(rows, choice), -3, -2)
    else:
        weights = jax.nn.one_hot(choice, M, axis=-2, dtype=dtype)
        y = jnp.einsum("...hms,...shv->...mhv", weights, value.astype(dtype), precision=precision)
    return y.astype(value.dtype)


@op("precision")
def kmeans_cross_attention_matrix(
    query: Float[Array, "*B M H K"], key: Float[Array, "*B S H K"], *, precision=None
) -> Float[Array, "*B H M S"]:
    """The assignment of `kmeans_cross_attention`: every pixel has a single one.

        a_ms = 1 where m = argmax_n q_n . k_s, else 0

    Args:
      query: [*B, M, H, K] the cluster centres.
      key: [*B, S, H, K] the pixels.
      precision: of the matrix product.

    Returns:
      [*B, H, M, S] in the dtype of query, without a gradient.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> centers = jnp.array([1.0, -1.0]).reshape(2, 1, 1)
      >>> pixels = jnp.array([2.0, 3.0, -4.0]).reshape(3, 1, 1)
      >>> ops.kmeans_cross_attention_matrix(centers, pixels)[0]
      Array([[1., 1., 0.],
             [0., 0., 1.]], dtype=float32)

    Reference: kmax-deeplab
    """
    choice = _choice(query, key, precision)
    return jax.nn.one_hot(choice, query.shape[-3], axis=-2, dtype=query.dtype)

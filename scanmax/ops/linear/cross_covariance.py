"""Cross-covariance attention: softmax over channels, in time linear in the tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, align, check_rank, check_shape, op


@op("epsilon", "precision")
def cross_covariance_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H K"],
    *,
    temperature: Float[Array, "H"] | Float[Array, ""] | float = 1.0,
    epsilon: float = 1e-12,
    precision=None,
) -> Float[Array, "*B T H K"]:
    """Attention among the channels of a head instead of its tokens (XCA).

        y_t = A v_t,    A = softmax(temperature * q^T k),    q, k of unit length along the tokens

    A is K x K, whatever the number of tokens, and row c weighs the channels of v that make
    channel c of y. The temperature multiplies, as in the released code; the paper divides by its
    inverse.

    Args:
      query: the queries.
      key: the keys.
      value: the values, as wide as the keys.
      temperature: one per head, or one for all.
      epsilon: the least length that a channel is divided by.
      precision: of every matrix product, as in jax.lax.dot_general.

    Returns:
      [*B, T, H, K] in the dtype of value.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import cross_covariance_attention
      >>> x = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
      >>> (100 * cross_covariance_attention(x, x, x)[:, 0]).round()
      Array([[73., 27.],
             [27., 73.]], dtype=float32)

    Reference: xcit
    """
    check_shape("value", value, query.shape, "the shape of query")
    weights = _weights(query, key, temperature, epsilon, precision)
    dtype = accumulator_dtype(weights, value)
    y = jnp.einsum("...hcd,...thd->...thc", weights, value.astype(dtype), precision=precision)
    return y.astype(value.dtype)


@op("epsilon", "precision")
def cross_covariance_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    *,
    temperature: Float[Array, "H"] | Float[Array, ""] | float = 1.0,
    epsilon: float = 1e-12,
    precision=None,
) -> Float[Array, "*B H K K"]:
    """The matrix over channels that `cross_covariance_attention` applies to every token.

        A = softmax(temperature * q^T k),    q, k of unit length along the tokens

    Args:
      query: the queries.
      key: the keys.
      temperature: one per head, or one for all.
      epsilon: the least length that a channel is divided by.
      precision: of the matrix product.

    Returns:
      [*B, H, K, K] in the dtype of query; rows sum to one.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import cross_covariance_matrix
      >>> x = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
      >>> (100 * cross_covariance_matrix(x, x, temperature=2.0)[0]).round()
      Array([[88., 12.],
             [12., 88.]], dtype=float32)

    Reference: xcit
    """
    return _weights(query, key, temperature, epsilon, precision).astype(query.dtype)


def _weights(query, key, temperature, epsilon, precision):
    check_rank(3, query=query, key=key)
    check_shape("key", key, query.shape, "the shape of query")
    dtype = accumulator_dtype(query, key)
    temperature = jnp.asarray(temperature, dtype)
    if temperature.ndim:
        check_shape("temperature", temperature, query.shape[-2:-1], "[H]")
    query, rows = _measured(query.astype(dtype), epsilon)
    key, columns = _measured(key.astype(dtype), epsilon)
    logits = jnp.einsum("...thc,...thd->...hcd", query, key, precision=precision)
    # Lengths divide the K x K products, not the T x K factors.
    logits = logits / (rows[..., :, None] * columns[..., None, :])
    if temperature.ndim:
        temperature = align(temperature, logits, 2)
    return jax.nn.softmax(logits * temperature, axis=-1)


def _measured(x, epsilon):
    """x, and max(|x|, epsilon) along the tokens, [*B, H, K].

    A channel that is shorter has no direction, and gets no gradient: that of x / epsilon would
    drown every other.
    """
    square = jnp.square(x).sum(-3)
    small = square <= epsilon**2
    x = jnp.where(jnp.expand_dims(small, -3), jax.lax.stop_gradient(x), x)
    return x, jnp.where(small, epsilon, jnp.sqrt(jnp.where(small, 1, square)))

"""Rank-augmented linear attention: tokens weighed by what all queries ask, outputs modulated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_implementation,
    check_shape,
    op,
)
from scanmax.ops.linear import order
from scanmax.ops.linear.feature_maps import check_feature_map, features


@op("feature_map", "epsilon", "form", "precision", "implementation")
def rala_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    gate: Float[Array, "*B T H V"] | None = None,
    *,
    turned_query: Float[Array, "*B T H F"] | None = None,
    turned_key: Float[Array, "*B T H F"] | None = None,
    feature_map: str | Callable | None = "elu",
    epsilon: float = 1e-6,
    scale: Float[Array, ""] | float | None = None,
    form: str | None = None,
    precision=None,
    implementation=None,
):
    """Linear attention with both its ranks augmented (RALA).

        alpha = T softmax_j(scale * mean_i(phi(q_i)) . phi(k_j))
        y_i = gate_i * sum_j s_ij v_j / (sum_j s_ij + epsilon)
        s_ij = phi(q_i) . alpha_j phi(k_j) / T

    The mean query weighs the tokens before their keys and values are summed; the gate, a value per
    channel, lets the outputs span more than the K dimensions that a product with the sums leaves
    them. It is a projection of the input in the paper, without activation in the released code.

    This is the released form, in which positions turn the features of the products and not those
    of the sum or of alpha: pass the turned features. There is no causal form: alpha needs all
    tokens.

    Args:
      query: the queries.
      key: the keys.
      value: the values.
      gate: the output modulation; None leaves it out.
      turned_query: phi(query) turned by positions, of which products with turned_key are taken.
      turned_key: phi(key) turned by positions.
      feature_map: phi, a name of `linear_attention` or a function.
      epsilon: added to the sum of a query's weights; where that is zero, so is the output.
      scale: of the logits of alpha; None is K^(-1/2).
      form: "parallel" goes through the T x T matrix; None is linear in T.
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: only "xla".

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import rala_attention
      >>> q, k = jnp.array([[[1.0]], [[1.0]]]), jnp.array([[[0.0]], [[2.0]]])
      >>> v = jnp.array([[[0.0]], [[1.0]]])
      >>> rala_attention(q, k, v, gate=jnp.array([[[1.0]], [[2.0]]]))[:, 0, 0].round(1)
      Array([1., 2.], dtype=float32)

    Reference: rala-ravlt
    """
    check_feature_map(feature_map)
    check_choice("form", form, (None, "parallel"))
    check_implementation("rala_attention", implementation, ("xla",))
    check_shape("gate", gate, value.shape, "the shape of value")
    dtype = value.dtype
    query, key, turned = _weighed(query, key, turned_query, turned_key, feature_map, scale)
    order.check(query, key, value, turned=turned)
    y, _ = order.attend(
        _rule(epsilon),
        query,
        key,
        value,
        turned=turned,
        average=True,
        form=form,
        precision=precision,
    )
    return (y if gate is None else y * gate.astype(y.dtype)).astype(dtype)


@op("feature_map", "epsilon", "precision")
def rala_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    *,
    turned_query: Float[Array, "*B T H F"] | None = None,
    turned_key: Float[Array, "*B T H F"] | None = None,
    feature_map: str | Callable | None = "elu",
    epsilon: float = 1e-6,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `rala_attention` applies to its values, for small T.

        w_ij = s_ij / (sum_j s_ij + epsilon),    s_ij = phi(q_i) . alpha_j phi(k_j) / T

    The gate is not in it: it acts on each channel apart.

    Args:
      query: the queries.
      key: the keys.
      turned_query: phi(query) turned by positions.
      turned_key: phi(key) turned by positions.
      feature_map: phi, a name of `linear_attention` or a function.
      epsilon: added to the sum of a query's weights.
      scale: of the logits of alpha; None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import rala_attention_matrix
      >>> q, k = jnp.array([[[1.0]], [[1.0]]]), jnp.array([[[0.0]], [[2.0]]])
      >>> (100 * rala_attention_matrix(q, k)[0]).round()
      Array([[ 1., 99.],
             [ 1., 99.]], dtype=float32)

    Reference: rala-ravlt
    """
    check_feature_map(feature_map)
    dtype = query.dtype
    query, key, turned = _weighed(query, key, turned_query, turned_key, feature_map, scale)
    order.check(query, key, None, turned=turned)
    return order.weights(
        _rule(epsilon), query, key, turned=turned, average=True, precision=precision
    ).astype(dtype)


def _weighed(query, key, turned_query, turned_key, feature_map, scale):
    """phi(q), alpha phi(k), and the turned pair with its keys weighed alike."""
    scale = order.default_scale(scale, query)
    query, key = features(query, feature_map), features(key, feature_map)
    order.check(query, key, None, turned=(turned_query, turned_key))
    dtype = accumulator_dtype(query, key)
    mean = query.mean(-3, keepdims=True, dtype=dtype)
    logits = (mean * key.astype(dtype)).sum(-1, keepdims=True) * scale  # [*B, T, H, 1]
    alpha = key.shape[-3] * jax.nn.softmax(logits, axis=-3)
    if turned_key is not None:
        turned_key = turned_key * alpha.astype(turned_key.dtype)
    return query, key * alpha.astype(key.dtype), (turned_query, turned_key)


def _rule(epsilon):
    def gain_and_shift(total, count):
        divisor = total + epsilon
        empty = divisor == 0
        return jnp.where(empty, 0, 1 / jnp.where(empty, 1, divisor)), None

    return gain_and_shift

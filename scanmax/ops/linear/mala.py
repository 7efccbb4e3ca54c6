"""Magnitude-aware linear attention: a subtraction in the place of the division."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import op
from scanmax.ops.linear import order


@op(
    "feature_map",
    "average",
    "epsilon",
    "is_causal",
    "return_state",
    "form",
    "chunk_size",
    "precision",
    "implementation",
)
def mala_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    *,
    turned_query: Float[Array, "*B T H F"] | None = None,
    turned_key: Float[Array, "*B T H F"] | None = None,
    feature_map: str | Callable | None = "elu",
    average: bool = True,
    epsilon: float = 1e-6,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    initial_state: Float[Array, "*B H _ _"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """Linear attention whose weights sharpen with the size of the query, as softmax's do.

        y_i = sum_j w_ij v_j,    w_ij = (1 + 1 / z_i) s_ij - z_i / n_i
        s_ij = scale * phi(q_i) . phi(k_j) / n_i,    z_i = sum_j s_ij

    n_i tokens are seen by query i. The weights of a query sum to one, and some may be negative.
    Dividing by z_i alone, as linear attention does, makes them the same for q and 2 q.

    This is the released form; the paper prints s_ij = phi(q_i) . phi(k_j), which is
    `average=False, scale=1`. There positions turn the features in the products and not in z_i, so
    that the sum of a row is no longer exactly one: pass the turned features. In the causal form all
    sums, and n_i, run over the tokens so far.

    Args:
      query: the queries.
      key: the keys.
      value: the values.
      turned_query: phi(query) turned by positions, of which products with turned_key are taken.
      turned_key: phi(key) turned by positions.
      feature_map: phi, a name of `linear_attention` or a function.
      average: divide the products by n_i.
      epsilon: added to z_i in 1 / z_i; where their sum is zero, 1 / z_i is left out.
      is_causal: attend to the past and to itself only.
      scale: None is K^(-1/2).
      initial_state: the state before the first token; causal only.
      return_state: also return the state after the last token, in accumulator precision.
      form: bidirectional, "parallel" goes through the T x T matrix, all else is linear in T;
        causal, as in `linear_attention`.
      chunk_size: tokens per chunk of the causal form.
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: only "xla".

    Returns:
      [*B, T, H, V] in the dtype of value; with `return_state` also the state [*B, H, K+1, V+1], the
      sums [[phi(k) v^T, phi(k)], [v^T, 1]] over the tokens so far.

    Raises:
      ValueError: an array of the wrong shape, an unknown name, a state without is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import mala_attention
      >>> q, k = jnp.array([[[0.0]], [[9.0]]]), jnp.array([[[0.0]], [[1.0]]])
      >>> (100 * mala_attention(q, k, jnp.array([[[0.0]], [[1.0]]]))[:, 0, 0]).round()
      Array([ 92., 317.], dtype=float32)

    Reference: mala-magnitude-aware-linear-attention
    """
    return order.attention(
        "mala_attention",
        _rule(epsilon),
        query,
        key,
        value,
        feature_map=feature_map,
        turned=(turned_query, turned_key),
        scale=scale,
        average=average,
        is_causal=is_causal,
        initial_state=initial_state,
        return_state=return_state,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
        implementation=implementation,
    )


@op("feature_map", "average", "epsilon", "precision")
def mala_attention_step(
    state: Float[Array, "*B H _ _"],
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B H K"],
    value: Float[Array, "*B H V"],
    *,
    turned_query: Float[Array, "*B H F"] | None = None,
    turned_key: Float[Array, "*B H F"] | None = None,
    feature_map: str | Callable | None = "elu",
    average: bool = True,
    epsilon: float = 1e-6,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of causal `mala_attention`.

        y_t = (1 + 1 / z_t) s_t - z_t mean_t(v),    s_t = scale / t * phi(q_t)^T S_t

    Args:
      state: [[sum phi(k) v^T, sum phi(k)], [sum v^T, t]] before the token; zeros at the start.
      query: the query.
      key: the key.
      value: the value.
      turned_query: phi(query) turned by positions.
      turned_key: phi(key) turned by positions.
      feature_map: phi, a name of `linear_attention` or a function.
      average: divide the products by t.
      epsilon: added to z_t in 1 / z_t.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import mala_attention_step
      >>> q = k = v = jnp.ones((1, 1))
      >>> mala_attention_step(jnp.zeros((1, 2, 2)), q, k, v)[0].round(3)
      Array([[1.]], dtype=float32)

    Reference: mala-magnitude-aware-linear-attention
    """
    options = {"feature_map": feature_map, "scale": scale, "average": average}
    options |= {"turned": (turned_query, turned_key), "precision": precision}
    return order.attention_step(_rule(epsilon), state, query, key, value, **options)


@op("feature_map", "average", "epsilon", "is_causal", "precision")
def mala_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    *,
    turned_query: Float[Array, "*B T H F"] | None = None,
    turned_key: Float[Array, "*B T H F"] | None = None,
    feature_map: str | Callable | None = "elu",
    average: bool = True,
    epsilon: float = 1e-6,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `mala_attention` applies to its values, for small T.

        w_ij = (1 + 1 / z_i) s_ij - z_i / n_i

    Args:
      query: the queries.
      key: the keys.
      turned_query: phi(query) turned by positions.
      turned_key: phi(key) turned by positions.
      feature_map: phi, a name of `linear_attention` or a function.
      average: divide the products by n_i.
      epsilon: added to z_i in 1 / z_i.
      is_causal: lower triangular.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import mala_attention_matrix
      >>> q, k = jnp.array([[[0.0]], [[9.0]]]), jnp.array([[[0.0]], [[1.0]]])
      >>> (100 * mala_attention_matrix(q, k)[0]).round()
      Array([[   8.,   92.],
             [-217.,  317.]], dtype=float32)

    Reference: mala-magnitude-aware-linear-attention
    """
    options = {"feature_map": feature_map, "scale": scale, "average": average}
    options |= {"turned": (turned_query, turned_key), "precision": precision}
    return order.attention_matrix(_rule(epsilon), query, key, is_causal=is_causal, **options)


def _rule(epsilon):
    def gain_and_shift(total, count):
        divisor = total + epsilon
        empty = divisor == 0
        inverse = jnp.where(empty, 0, 1 / jnp.where(empty, 1, divisor))
        return 1 + inverse, -total / count

    return gain_and_shift

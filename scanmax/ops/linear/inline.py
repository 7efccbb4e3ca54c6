"""Injective linear attention (InLine): every weight less the row's mean, plus 1 / n."""

from collections.abc import Callable

from jaxtyping import Array, Float

from scanmax.ops.contract import op
from scanmax.ops.linear import order


@op(
    "feature_map",
    "average",
    "is_causal",
    "return_state",
    "form",
    "chunk_size",
    "precision",
    "implementation",
)
def inline_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    *,
    feature_map: str | Callable | None = None,
    average: bool = True,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    initial_state: Float[Array, "*B H _ _"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """Linear attention that gives different queries different weights (InLine).

        y_i = sum_j w_ij v_j,    w_ij = s_ij - mean_j(s_ij) + 1 / n_i
        s_ij = scale * phi(q_i) . phi(k_j) / n_i

    n_i tokens are seen by query i. The weights of a query sum to one, and may be negative. Divided
    by their sum instead, those of q and of 2 q would be the same.

    This is the released form; the paper prints s_ij = phi(q_i) . phi(k_j), which is
    `average=False, scale=1`. The causal form, whose mean and n_i run over the tokens so far, is
    ours.

    Args:
      query: the queries.
      key: the keys.
      value: the values.
      feature_map: phi, a name of `linear_attention` or a function; None, the identity, in the
        released code.
      average: divide the products by n_i.
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
      >>> from scanmax.ops import inline_attention
      >>> q, k = jnp.array([[[1.0]], [[2.0]]]), jnp.array([[[0.0]], [[2.0]]])
      >>> inline_attention(q, k, jnp.array([[[0.0]], [[1.0]]]))[:, 0, 0]
      Array([1. , 1.5], dtype=float32)

    Reference: inline-attention
    """
    return order.attention(
        "inline_attention",
        _rule,
        query,
        key,
        value,
        feature_map=feature_map,
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


@op("feature_map", "average", "precision")
def inline_attention_step(
    state: Float[Array, "*B H _ _"],
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B H K"],
    value: Float[Array, "*B H V"],
    *,
    feature_map: str | Callable | None = None,
    average: bool = True,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of causal `inline_attention`.

        y_t = s_t + (1 - z_t) mean_t(v),    s_t = scale / t * phi(q_t)^T S_t

    Args:
      state: [[sum phi(k) v^T, sum phi(k)], [sum v^T, t]] before the token; zeros at the start.
      query: the query.
      key: the key.
      value: the value.
      feature_map: phi, a name of `linear_attention` or a function.
      average: divide the products by t.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import inline_attention_step
      >>> q = k = v = jnp.ones((1, 1))
      >>> inline_attention_step(jnp.zeros((1, 2, 2)), q, k, v)[0]
      Array([[1.]], dtype=float32)

    Reference: inline-attention
    """
    options = {"feature_map": feature_map, "scale": scale, "average": average}
    return order.attention_step(_rule, state, query, key, value, precision=precision, **options)


@op("feature_map", "average", "is_causal", "precision")
def inline_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    *,
    feature_map: str | Callable | None = None,
    average: bool = True,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `inline_attention` applies to its values, for small T.

        w_ij = s_ij - mean_j(s_ij) + 1 / n_i

    Args:
      query: the queries.
      key: the keys.
      feature_map: phi, a name of `linear_attention` or a function.
      average: divide the products by n_i.
      is_causal: lower triangular.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import inline_attention_matrix
      >>> q, k = jnp.array([[[1.0]], [[2.0]]]), jnp.array([[[0.0]], [[2.0]]])
      >>> inline_attention_matrix(q, k)[0]
      Array([[ 0. ,  1. ],
             [-0.5,  1.5]], dtype=float32)

    Reference: inline-attention
    """
    options = {"feature_map": feature_map, "scale": scale, "average": average}
    return order.attention_matrix(
        _rule, query, key, is_causal=is_causal, precision=precision, **options
    )


def _rule(total, count):
    return 1.0, (1 - total) / count

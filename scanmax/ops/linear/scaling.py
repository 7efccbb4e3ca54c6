"""Scaling attention: products of queries and keys over the number of tokens, nothing else."""

from jaxtyping import Array, Float

from scanmax.ops.contract import op
from scanmax.ops.linear import order


@op("is_causal", "return_state", "form", "chunk_size", "precision", "implementation")
def scaling_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    *,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    initial_state: Float[Array, "*B H _ _"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """Attention without any non-linearity: the logits, divided by the number of tokens.

        y_i = sum_j w_ij v_j,    w_ij = scale * (q_i . k_j) / n_i

    n_i tokens are seen by query i: all T, or i + 1 in the causal form, which is ours (the paper has
    the bidirectional one). Nothing stands between the two products, so that queries may read
    sum_j k_j v_j^T, in time linear in T.

    Args:
      query: the queries.
      key: the keys.
      value: the values.
      is_causal: attend to the past and to itself only.
      scale: None is K^(-1/2).
      initial_state: the state before the first token; causal only.
      return_state: also return the state after the last token, in accumulator precision.
      form: bidirectional, "parallel" is the quadratic order through the T x T matrix, all else the
        linear one; causal, as in `linear_attention`.
      chunk_size: tokens per chunk of the causal form.
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: only "xla".

    Returns:
      [*B, T, H, V] in the dtype of value; with `return_state` also the state [*B, H, K+1, V+1], the
      sums [[k v^T, k], [v^T, 1]] over the tokens so far.

    Raises:
      ValueError: an array of the wrong shape, an unknown form, a state without is_causal.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import scaling_attention
      >>> q = k = jnp.ones((2, 1, 1))
      >>> scaling_attention(q, k, jnp.array([[[1.0]], [[4.0]]]))[:, 0, 0]
      Array([2.5, 2.5], dtype=float32)

    Reference: mpcvit
    """
    return order.attention(
        "scaling_attention",
        _rule,
        query,
        key,
        value,
        scale=scale,
        average=True,
        is_causal=is_causal,
        initial_state=initial_state,
        return_state=return_state,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
        implementation=implementation,
    )


@op("precision")
def scaling_attention_step(
    state: Float[Array, "*B H _ _"],
    query: Float[Array, "*B H K"],
    key: Float[Array, "*B H K"],
    value: Float[Array, "*B H V"],
    *,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
):
    """One token of causal `scaling_attention`.

        y_t = scale / t * q_t^T S_t,    S_t = S_{t-1} + k_t v_t^T

    Args:
      state: [[sum k v^T, sum k], [sum v^T, t]] before the token; zeros at the start.
      query: the query.
      key: the key.
      value: the value.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      (y [*B, H, V] in the dtype of value, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import scaling_attention_step
      >>> q = k = v = jnp.ones((1, 1))
      >>> scaling_attention_step(jnp.ones((1, 2, 2)), q, k, v)[0]
      Array([[1.]], dtype=float32)

    Reference: mpcvit
    """
    options = {"scale": scale, "average": True, "precision": precision}
    return order.attention_step(_rule, state, query, key, value, **options)


@op("is_causal", "precision")
def scaling_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B T H K"],
    *,
    is_causal: bool = False,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `scaling_attention` applies to its values, for small T.

        w_ij = scale * (q_i . k_j) / n_i

    Args:
      query: the queries.
      key: the keys.
      is_causal: lower triangular.
      scale: None is K^(-1/2).
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import scaling_attention_matrix
      >>> x = jnp.ones((2, 1, 1))
      >>> scaling_attention_matrix(x, x, is_causal=True)[0]
      Array([[1. , 0. ],
             [0.5, 0.5]], dtype=float32)

    Reference: mpcvit
    """
    options = {"scale": scale, "average": True, "precision": precision}
    return order.attention_matrix(_rule, query, key, is_causal=is_causal, **options)


def _rule(total, count):
    return 1.0, None

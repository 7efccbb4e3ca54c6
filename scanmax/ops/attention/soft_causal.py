"""Attention under a causal mask that is only partly there: what eases a bidirectional start."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.attention.relative_term import SoftCausal, relative_attention, relative_matrix
from scanmax.ops.contract import check_rank, op, require


def _terms(query, key, strength):
    check_rank(3, query=query, key=key)
    require(strength.ndim == 0, f"strength has shape {strength.shape}; expected a scalar.")
    return strength, None, None


@op("placement", "normalizer", "form", "chunk_size", "precision", forward_mode="parallel")
def soft_causal_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    strength: Float[Array, ""],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    placement: str = "weights",
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Attention in which later keys count r times: bidirectional at r = 1, causal at r = 0.

        M_ts = 1 where s <= t, r elsewhere
        placement "weights":  y = (softmax(scale q k^T) * M) v
        placement "logits":   y = softmax(scale q k^T + log M) v

    "weights" is iLLaMA's released code: rows are normalized over all keys first, so at r = 0 they
    sum to less than one, and a query's weights still depend on later keys. "logits" normalizes what
    is left; at r = 0 it is causal attention. In training r falls from 1 to 0.

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      strength: r, a scalar from 0 to 1, traced: a schedule over steps compiles once. On the logits
        its gradient at 0 is taken as 0.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      placement: "weights" (after normalisation) or "logits" (before).
      scale: scalar factor of the logits; None is K ** -0.5.
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
      >>> x, value = jnp.zeros((2, 1, 4)), jnp.array([[[2.0]], [[4.0]]])
      >>> ops.soft_causal_attention(x, x, value, jnp.array(0.5))[:, 0, 0]
      Array([2., 3.], dtype=float32)

    Reference: illama
    """
    strength = jnp.asarray(strength)
    return relative_attention(
        SoftCausal(placement),
        _terms(query, key, strength),
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        is_causal=False,
        normalizer=normalizer,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
    )


@op("placement", "normalizer", "precision")
def soft_causal_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    strength: Float[Array, ""],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    placement: str = "weights",
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `soft_causal_attention` mixes the values.

    P = softmax(l) * M or softmax(l + log M), M_ts = 1 where s <= t, r elsewhere

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      strength: r, a scalar from 0 to 1.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      placement: "weights" or "logits".
      scale: scalar factor of the logits; None is K ** -0.5.
      normalizer: a name or a `Normalizer`.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.zeros((2, 1, 4))
      >>> ops.soft_causal_attention_matrix(x, x, jnp.array(0.25))[0]
      Array([[0.5  , 0.125],
             [0.5  , 0.5  ]], dtype=float32)

    Reference: illama
    """
    strength = jnp.asarray(strength)
    return relative_matrix(
        SoftCausal(placement),
        _terms(query, key, strength),
        query,
        key,
        bias,
        mask,
        scale=scale,
        is_causal=False,
        normalizer=normalizer,
        precision=precision,
    )

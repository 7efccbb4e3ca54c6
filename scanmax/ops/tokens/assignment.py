"""Soft assignment of tokens to a few slots, and back: what tokenizers, slimming and slots share.

One table of logits [T, M] serves both ways: its softmax over the tokens gathers them into M slots
(`aggregate_tokens`), its softmax over the slots gives every token its share of them
(`dispatch_tokens`). Cost and memory are linear in T.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require
from scanmax.ops.softmax.softmax import softmax

_LEAST_NORM = 1e-12


def unit(x: Array) -> Array:
    """x over its Euclidean norm along the last axis; zero stays zero, and gets no gradient.

    A direction that is none has no derivative either: that of x / 1e-12 would drown every other.
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    none = square <= _LEAST_NORM**2
    x = jnp.where(none, jax.lax.stop_gradient(x), x)
    return x / jnp.sqrt(jnp.where(none, _LEAST_NORM**2, square))


@op("precision")
def aggregate_tokens(
    x: Float[Array, "*B T D"],
    logits: Float[Array, "*B T M"],
    mask: Bool[Array, "*B T"] | None = None,
    *,
    precision=None,
) -> Float[Array, "*B M D"]:
    """Gathers tokens into slots: each slot is a mean of all tokens, weighted by softmax.

        y_m = sum_t a_tm x_t,   a_tm = exp(l_tm) / sum_s exp(l_sm)

    Token slimming (logits by an MLP, times a learned scale), the filter tokenizer (logits x W_A),
    the recurrent one (x times a map of earlier tokens) and the clustering of slots are this sum.

    Args:
      x: [*B, T, D] tokens.
      logits: [*B, T, M], of each token for each slot.
      mask: [*B, T] bool, True = takes part; what it hides is never read.
      precision: of the matrix product.

    Returns:
      [*B, M, D] in the dtype of x; 0 where the mask hides every token.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0], [3.0]])
      >>> ops.aggregate_tokens(x, jnp.array([[0.0, 99.0], [0.0, 0.0]]))[:, 0]
      Array([2., 1.], dtype=float32)

    Reference: sit-self-slimmed, visual-transformer-vt, glmix
    """
    check_rank(2, x=x, logits=logits)
    check_shape("logits", logits, (*x.shape[:-1], logits.shape[-1]), "[*B, T, M]")
    check_shape("mask", mask, x.shape[:-1], "[*B, T]")
    dtype = accumulator_dtype(x, logits)
    tokens, logits = x.astype(dtype), logits.astype(dtype)
    if mask is not None:
        mask = mask[..., None]
        tokens = jnp.where(mask, tokens, jnp.zeros_like(tokens))
    weights = softmax(logits, axis=-2, where=mask)
    y = jnp.einsum("...tm,...td->...md", weights, tokens, precision=precision)
    return y.astype(x.dtype)


@op("precision")
def dispatch_tokens(
    slots: Float[Array, "*B M D"], logits: Float[Array, "*B T M"], *, precision=None
) -> Float[Array, "*B T D"]:
    """Gives slots back to tokens: each token is a mean of the slots, weighted by softmax.

        y_t = sum_m d_tm c_m,   d_tm = exp(l_tm) / sum_n exp(l_tn)

    With the logits of `aggregate_tokens` it is the way back of the slots; with (x W_Q) (c W_K)^T it
    is the projector of visual transformers.

    Args:
      slots: [*B, M, D].
      logits: [*B, T, M], of each token for each slot.
      precision: of the matrix product.

    Returns:
      [*B, T, D] in the dtype of slots.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> slots = jnp.array([[1.0], [3.0]])
      >>> ops.dispatch_tokens(slots, jnp.array([[0.0, 0.0], [99.0, 0.0]]))[:, 0]
      Array([2., 1.], dtype=float32)

    Reference: glmix, visual-transformer-vt
    """
    check_rank(2, slots=slots, logits=logits)
    check_shape(
        "logits", logits, (*slots.shape[:-2], logits.shape[-2], slots.shape[-2]), "[*B, T, M]"
    )
    dtype = accumulator_dtype(slots, logits)
    weights = softmax(logits.astype(dtype))
    y = jnp.einsum("...tm,...md->...td", weights, slots.astype(dtype), precision=precision)
    return y.astype(slots.dtype)


@op("precision")
def slot_logits(
    x: Float[Array, "*B T D"],
    slots: Float[Array, "*B M D"],
    *,
    scale: Float[Array, ""] | float | None = None,
    precision=None,
) -> Float[Array, "*B T M"]:
    """How much each token resembles each slot: their cosine, times a scale.

        l_tm = scale (x_t / |x_t|) . (c_m / |c_m|)

    Args:
      x: [*B, T, D] tokens.
      slots: [*B, M, D].
      scale: scalar, may be traced; None is D ** -0.5, where the learned one starts.
      precision: of the matrix product.

    Returns:
      [*B, T, M] in the dtype of x.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[3.0, 4.0], [0.0, 2.0]])
      >>> ops.slot_logits(x, jnp.array([[0.0, 9.0]]), scale=10.0)[:, 0]
      Array([ 8., 10.], dtype=float32)

    Reference: glmix
    """
    check_rank(2, x=x, slots=slots)
    check_shape("slots", slots, (*x.shape[:-2], slots.shape[-2], x.shape[-1]), "[*B, M, D]")
    dtype = accumulator_dtype(x, slots)
    scale = jnp.asarray(x.shape[-1] ** -0.5 if scale is None else scale, dtype)
    require(scale.ndim == 0, f"scale has shape {scale.shape}; expected a scalar.")
    tokens, slots = unit(x.astype(dtype)), unit(slots.astype(dtype))
    logits = jnp.einsum("...td,...md->...tm", tokens, slots, precision=precision)
    return (scale * logits).astype(x.dtype)


@op("precision")
def slot_matrix(
    logits: Float[Array, "*B T M"],
    mixing: Float[Array, "*B H M M"] | None = None,
    *,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens of aggregation, mixing of slots, and dispatch by the same logits.

        P_h = softmax_m(l) mixing_h softmax_t(l)^T

    Its rows sum to one where those of the mixing do.

    Args:
      logits: [*B, T, M].
      mixing: [*B, H, M, M] what happens between the slots, for example the attention matrix; None
        leaves them alone (H = 1).
      precision: of the matrix products.

    Returns:
      [*B, H, T, T] in the dtype of logits, for small T.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.slot_matrix(jnp.zeros((2, 3)))[0].round(2)
      Array([[0.5, 0.5],
             [0.5, 0.5]], dtype=float32)

    Reference: glmix
    """
    check_rank(2, logits=logits)
    dtype, M = accumulator_dtype(logits, mixing), logits.shape[-1]
    scores = logits.astype(dtype)[..., None, :, :]
    there, back = softmax(scores, axis=-2), softmax(scores, axis=-1)
    if mixing is not None:
        expected = (*logits.shape[:-2], mixing.shape[-3] if mixing.ndim > 2 else 1, M, M)
        check_shape("mixing", mixing, expected, "[*B, H, M, M]")
        back = jnp.matmul(back, mixing.astype(dtype), precision=precision)
    matrix = jnp.einsum("...htm,...hsm->...hts", back, there, precision=precision)
    return matrix.astype(logits.dtype)


@op()
def set_pool(
    x: Float[Array, "*B N D"],
    logits: Float[Array, "*B N D"],
    mask: Bool[Array, "*B N"] | None = None,
) -> Float[Array, "*B D"]:
    """Pools a set: the mean of its elements, weighted in every feature by a softmax of its own.

        y_d = sum_n s_nd x_nd,   s_nd = exp(l_nd) / sum_m exp(l_md)

    The order of the elements does not matter, and a set of one element gives that element. Maps
    are pooled alike with their pixels among the leading axes.

    Args:
      x: [*B, N, D] the elements.
      logits: [*B, N, D], for example x W with a matrix W shared by all elements.
      mask: [*B, N] bool, True = belongs to the set; what it hides is never read.

    Returns:
      [*B, D] in the dtype of x; 0 for an empty set.

    Raises:
      ValueError: shapes that do not agree.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 1.0], [3.0, 3.0]])
      >>> ops.set_pool(x, jnp.array([[0.0, 0.0], [0.0, 99.0]]))
      Array([2., 3.], dtype=float32)

    Reference: attsets
    """
    check_rank(2, x=x)
    check_shape("logits", logits, x.shape, "[*B, N, D]")
    check_shape("mask", mask, x.shape[:-1], "[*B, N]")
    dtype = accumulator_dtype(x, logits)
    elements, logits = x.astype(dtype), logits.astype(dtype)
    if mask is not None:
        mask = mask[..., None]
        elements = jnp.where(mask, elements, jnp.zeros_like(elements))
        logits = jnp.where(mask, logits, -jnp.inf)
    # By maxima alone, for XLA fuses them into one pass and not choices: an empty set has the least
    # number for its level and nothing for its scores; others have a score of 1 in their sum.
    least = jnp.finfo(dtype)
    level = jnp.maximum(jnp.max(logits, -2, keepdims=True), least.min)
    scores = jnp.exp(logits - jax.lax.stop_gradient(level))
    weights = scores / jnp.maximum(jnp.sum(scores, -2, keepdims=True), least.tiny)
    return jnp.sum(weights * elements, axis=-2).astype(x.dtype)

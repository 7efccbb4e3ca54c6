"""Cross-entropy of a linear head's softmax, without its logits ever standing in memory."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import accumulator_dtype, align, check_rank, check_shape, op, require

# At most so many pieces: each one reads and writes the whole gradient of the kernel.
_PIECES = 16


@op("label_smoothing", "return_prediction", "chunk_size", "precision")
def linear_cross_entropy(
    x: Float[Array, "*B T D"],
    kernel: Float[Array, "D V"],
    labels: Int[Array, "*B T"],
    bias: Float[Array, " V"] | None = None,
    *,
    label_smoothing: float = 0.0,
    return_prediction: bool = False,
    chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
):
    """Cross-entropy of softmax(x W + b), a piece of the tokens at a time.

        l_t = logsumexp(z_t) - (1 - e) z_{t, label_t} - e mean(z_t),   z_t = x_t W + b

    The logits [*B, T, V] of a large vocabulary are most of what a language model keeps for its
    backward pass. Here those of `chunk_size` tokens of each row exist at a time, and are computed
    again on the way back: a third more products of the head for as much less memory as there are
    pieces. Sharded over the batch, a piece is of every device's rows; sharded over V, devices
    exchange a few numbers a token. Derivatives of any order and mode are JAX's own.

    Args:
      x: hidden states.
      kernel: of the head, W; the transposed table where head and embedding are tied.
      labels: classes; a token with a negative one has no loss, and no gradient comes from it.
      bias: of the head.
      label_smoothing: share e of the target that is spread evenly.
      return_prediction: also return the class of the largest logit.
      chunk_size: tokens of each row whose logits exist at a time; None is T over the smaller of
        V / D and 16: a piece then takes as much room as x, or a sixteenth of the logits.
      precision: of the products, as in jax.lax.

    Returns:
      The losses [*B, T] in accumulator precision; with `return_prediction` also int32 [*B, T].

    Raises:
      ValueError: an array of the wrong shape, labels that are no integers, a chunk of no tokens, a
        smoothing outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, kernel = jnp.zeros((3, 2)), jnp.ones((2, 4))
      >>> jnp.exp(ops.linear_cross_entropy(x, kernel, jnp.array([0, 3, -1])))
      Array([4., 4., 1.], dtype=float32)

    Reference: mamba2-ssd
    """
    check_rank(2, x=x, kernel=kernel)
    length, dim = x.shape[-2:]
    classes = kernel.shape[-1]
    check_shape("kernel", kernel, (dim, classes), "[D, V]")
    check_shape("labels", labels, x.shape[:-1], "[*B, T]")
    check_shape("bias", bias, (classes,), "[V]")
    require(
        jnp.issubdtype(labels.dtype, jnp.integer),
        f"labels has dtype {labels.dtype}; expected integers.",
    )
    require(0 <= label_smoothing <= 1, f"label_smoothing={label_smoothing}; expected [0, 1].")
    require(chunk_size is None or chunk_size > 0, f"chunk_size={chunk_size}; expected at least 1.")
    dtype = accumulator_dtype(x, kernel, bias)
    # What the pieces add to the gradients of kernel and bias is summed in this precision.
    wide_kernel = kernel.astype(dtype)
    wide_bias = None if bias is None else bias.astype(dtype)
    product = jnp.promote_types(x.dtype, kernel.dtype)

    def piece(tokens):
        x, labels = tokens
        logits = jnp.einsum(
            "...d,dv->...v",
            x.astype(product),
            wide_kernel.astype(product),
            precision=precision,
            preferred_element_type=dtype,
        )
        if wide_bias is not None:
            logits = logits + align(wide_bias, logits)
        classes_of = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
        chosen = jnp.sum(jnp.where(classes_of == labels[..., None], logits, 0.0), -1)
        losses = jax.nn.logsumexp(logits, -1) - (1 - label_smoothing) * chosen
        if label_smoothing:
            losses = losses - label_smoothing * jnp.mean(logits, -1)
        losses = jnp.where(labels >= 0, losses, 0)
        return losses, jnp.argmax(logits, -1).astype(jnp.int32)

    if chunk_size is None:
        chunk_size = -(-length // max(1, min(_PIECES, classes // max(dim, 1))))
    if chunk_size >= length:
        losses, prediction = piece((x, labels))
    else:
        pieces = -(-length // chunk_size)
        cut = [_cut(array, pieces, chunk_size, x.ndim - 2) for array in (x, labels)]
        found = lax.map(jax.checkpoint(piece), tuple(cut))
        losses, prediction = (_joined(array, length, x.ndim - 2) for array in found)
    return (losses, prediction) if return_prediction else losses


def _cut(array, pieces, size, axis):
    """[*B, T, ...] as [pieces, *B, size, ...], padded with zeros."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, pieces * size - array.shape[axis])
    array = jnp.pad(array, padding)
    array = array.reshape(*array.shape[:axis], pieces, size, *array.shape[axis + 1 :])
    return jnp.moveaxis(array, axis, 0)


def _joined(array, length, axis):
    """[pieces, *B, size] as [*B, T]."""
    array = jnp.moveaxis(array, 0, axis)
    merged = array.reshape(*array.shape[:axis], array.shape[axis] * array.shape[axis + 1])
    return merged[..., :length]

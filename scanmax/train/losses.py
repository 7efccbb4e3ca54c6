"""Losses per example or per token; the step averages them under the mask.

Every loss computes in float32 or wider, whatever the logits' dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError, suggest
from scanmax.ops.softmax.softmax import log_stablemax


def _targets(
    labels: Int[Array, "*B"] | Float[Array, "*B C"], logits: Float[Array, "*B C"], smoothing: float
) -> Float[Array, "*B C"]:
    classes = logits.shape[-1]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    return labels * (1 - smoothing) + smoothing / classes


def _accumulated(logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def softmax_cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Int[Array, "*B"] | Float[Array, "*B C"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*B"]:
    """Cross-entropy -sum_c p_c log softmax(logits)_c.

    Args:
      logits: [*B, C].
      labels: class indices [*B], or distributions [*B, C] (mixed labels).
      label_smoothing: share e of the target spread evenly: p = (1 - e) label + e / C.

    Returns:
      [*B], in float32 or wider.

    Reference: deit
    """
    logits = _accumulated(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer) and not label_smoothing:
        # Without a one-hot matrix: at a language model's vocabulary it would double the memory.
        chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen
    targets = _targets(labels, logits, label_smoothing)
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def stablemax_cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Int[Array, "*B"] | Float[Array, "*B C"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*B"]:
    """Cross-entropy -sum_c p_c log stablemax(logits)_c; arguments as softmax_cross_entropy.

    Reference: stablemax-perpgrad
    """
    logits = _accumulated(logits)
    targets = _targets(labels, logits, label_smoothing)
    return -jnp.sum(targets * log_stablemax(logits), axis=-1)


def hard_distillation(
    logits: Float[Array, "*B C"], teacher_logits: Float[Array, "*B C"]
) -> Float[Array, "*B"]:
    """Cross-entropy with the teacher's decision as the label.

    Reference: deit
    """
    return softmax_cross_entropy(logits, jnp.argmax(teacher_logits, axis=-1))


def softened(
    logits: Float[Array, "*B C"], temperature: float, standardize: bool = False
) -> Float[Array, "*B C"]:
    """logits / t in float32 or wider; with `standardize` (logits - mean) / (std t) over classes.

    Standardised, a student need not match the size of the teacher's logits, only their order and
    proportions (Sun et al., Logit Standardization in Knowledge Distillation, 2024, whose deviation,
    as here, is the unbiased one, plus 1e-7).
    """
    logits = _accumulated(logits)
    if standardize:
        deviation = jnp.std(logits, axis=-1, keepdims=True, ddof=1)
        logits = (logits - jnp.mean(logits, axis=-1, keepdims=True)) / (deviation + 1e-7)
    return logits / temperature


def soft_distillation(
    logits: Float[Array, "*B C"],
    teacher_logits: Float[Array, "*B C"],
    *,
    temperature: float = 3.0,
    standardize: bool = False,
) -> Float[Array, "*B"]:
    """Temperature-squared divergence t^2 KL(softmax(teacher / t) || softmax(logits / t)).

    Args:
      logits: the student's.
      teacher_logits: of the same classes.
      temperature: t.
      standardize: bring the logits of both to mean 0 and deviation 1 first (`softened`).

    Reference: deit
    """
    student = jax.nn.log_softmax(softened(logits, temperature, standardize))
    teacher = jax.nn.log_softmax(softened(teacher_logits, temperature, standardize))
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def uncertainty_weighted(
    values: Float[Array, "*B L"], log_variances: Float[Array, "L"]
) -> Float[Array, "*B"]:
    """Several losses weighed by learned uncertainties, sum_i (exp(-w_i) L_i + w_i) / 2.

    The best w_i is log L_i: each loss counts by the inverse of its own size, and the w_i keep any
    of them from being given up.

    Args:
      values: L losses of each example.
      log_variances: the learned w, which start at 0.

    Returns:
      [*B], in float32 or wider.

    Reference: dcal
    """
    values, weights = _accumulated(values), _accumulated(log_variances)
    weights = weights.reshape((1,) * (values.ndim - 1) + weights.shape)
    return jnp.sum(jnp.exp(-weights) * values + weights, axis=-1) / 2


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "stablemax_cross_entropy": stablemax_cross_entropy,
}


def get_loss(name: str):
    """The loss of that name.

    Raises:
      UserError: unknown name; the message lists near matches.
    """
    if name not in LOSSES:
        raise UserError(f"unknown config.objective.loss={name!r}; {suggest(name, LOSSES)}")
    return LOSSES[name]

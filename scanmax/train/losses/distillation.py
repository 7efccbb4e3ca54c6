"""Losses between logits, those of a teacher among them, and how several losses are weighed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.train.losses.base import accumulated
from scanmax.train.losses.cross_entropy import softmax_cross_entropy


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
    logits = accumulated(logits)
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
    values, weights = accumulated(values), accumulated(log_variances)
    weights = weights.reshape((1,) * (values.ndim - 1) + weights.shape)
    return jnp.sum(jnp.exp(-weights) * values + weights, axis=-1) / 2

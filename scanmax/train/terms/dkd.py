"""Decoupled distillation: how sure the teacher is, and what it thinks of the other classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.fields import ranged
from scanmax.train.losses import softened
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Dkd(Term):
    """t^2 (alpha TCKD + beta NCKD), two parts of the divergence with weights of their own.

    With p the teacher's softmax(logits / t), q the student's, y the label's class, and ^ a
    distribution over the other classes alone:

        TCKD = KL([p_y, 1 - p_y] || [q_y, 1 - q_y])
        NCKD = KL(p^ || q^)
        KL(p || q) = TCKD + (1 - p_y) NCKD

    Plain distillation weighs the second part by 1 - p_y, and so forgets it where the teacher is
    sure. A mixed label, a distribution [B, C], stands for its heaviest class, as in the accuracy.
    The released code raises the weight from 0 over its first 20 epochs; here it counts from the
    start.

    Attributes:
      alpha: weight of TCKD.
      beta: weight of NCKD.
      temperature: t.
      standardize: bring the logits of both to mean 0 and deviation 1 over the classes first.

    Source: Zhao et al., Decoupled Knowledge Distillation (2022); defaults of the released code.
    """

    alpha: float = ranged(1.0, "[0, inf)")
    beta: float = ranged(8.0, "[0, inf)")
    temperature: float = ranged(4.0, "(0, inf)")
    standardize: bool = False

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        labels = self.labels(batch)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            labels = jnp.argmax(labels, axis=-1)
        is_target = jax.nn.one_hot(labels, teacher.logits.shape[-1], dtype=bool)
        told, others = self.split(teacher.logits, is_target)
        own, own_others = self.split(student.logits, is_target)
        target = jnp.sum(jnp.exp(told) * (told - own), axis=-1)
        # Both are 0 at the label's class, which adds nothing.
        other = jnp.sum(jnp.exp(others) * (others - own_others), axis=-1)
        return self.temperature**2 * (self.alpha * target + self.beta * other)

    def split(
        self, logits: Float[Array, "B C"], is_target: Bool[Array, "B C"]
    ) -> tuple[Float[Array, "B 2"], Float[Array, "B C"]]:
        """log [p_y, 1 - p_y], and log p^ with 0 in place of the label's class."""
        logits = softened(logits, self.temperature, self.standardize)
        rest = jax.nn.logsumexp(logits, axis=-1, where=~is_target, keepdims=True)
        chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1, keepdims=True)
        pair = jax.nn.log_softmax(jnp.concatenate([chosen, rest], axis=-1))
        return pair, jnp.where(is_target, 0.0, logits - rest)

"""Deviation-aware distillation: what teacher and student are unsure of counts more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice, ranged
from scanmax.train.losses import soft_distillation, softened
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class DeviationAware(Term):
    """(H_t H_s)^gamma t^2 KL(softmax(teacher / t) || softmax(student / t)), of tokens too.

    H is the entropy of what the teacher and the student say, over its largest value log C; no
    gradient flows through it. gamma = 0 is plain distillation. Which entropy the paper takes is not
    clear from what is public: `unsure` names the choices.

    Attributes:
      gamma: how much more the unsure counts.
      unsure: whose entropy: "both" (their product), "teacher" or "student".
      temperature: t.

    Reference: db-llm
    """

    gamma: float = ranged(1.0, "[0, inf)")
    unsure: str = choice("both", ("both", "teacher", "student"))
    temperature: float = ranged(1.0, "(0, inf)")

    def __call__(
        self, student: Told, teacher: Told, batch: dict[str, Array]
    ) -> Float[Array, "B ..."]:
        """[B], or [B, T] of tokens."""
        values = soft_distillation(student.logits, teacher.logits, temperature=self.temperature)
        if not self.gamma:
            return values
        asked = {"both": (student, teacher), "teacher": (teacher,), "student": (student,)}
        weight = jnp.ones_like(values)
        for each in asked[self.unsure]:
            weight *= uncertainty(softened(each.logits, self.temperature))
        return jax.lax.stop_gradient(weight**self.gamma) * values


def uncertainty(logits: Float[Array, "*B C"]) -> Float[Array, "*B"]:
    """The entropy of softmax(logits) over log C: 0 is sure, 1 knows nothing."""
    logs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1) / jnp.log(float(logits.shape[-1]))

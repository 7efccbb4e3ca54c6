"""Soft distillation: the teacher's distribution, softened by a temperature."""

from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.losses import soft_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Kd(Term):
    """t^2 KL(softmax(teacher / t) || softmax(student / t)).

    Attributes:
      temperature: t.
      standardize: bring the logits of both to mean 0 and deviation 1 over the classes first.

    Reference: deit
    """

    temperature: float = ranged(3.0, "(0, inf)")
    standardize: bool = False

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B], or [B, T] of tokens."""
        return soft_distillation(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardize=self.standardize,
        )

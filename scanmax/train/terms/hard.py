"""Hard distillation: the teacher's decision is a label."""

from jaxtyping import Array, Float

from scanmax.train.losses import hard_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Hard(Term):
    """Cross-entropy with the teacher's most likely class.

    Reference: deit
    """

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B], or [B, T] of tokens."""
        return hard_distillation(student.logits, teacher.logits)

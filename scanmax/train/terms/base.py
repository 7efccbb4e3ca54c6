"""The term: a loss between a student and a teacher (or of the student alone)."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.train.teachers import Told


class Term(nn.Module):
    """A loss beside the objective's own. A subclass is one file, and one name of TERMS.

    `objective.terms=(("dkd", {"weight": 1.0}), ...)` builds it; its fields are the options. What it
    learns (a projector, a predictor) are submodules: they lie under the term's name beside the
    model, and are left behind at export.

    Attributes:
      weight: what its values are multiplied by.
      teacher: index of the teacher that it asks.

    What a subclass says of itself:
      needs_teacher: whether it holds the student against a teacher.
      reads_taps: whether it reads activations, `student.tap("block_03/output")`.
    """

    weight: float = 1.0
    teacher: int = 0

    needs_teacher: ClassVar[bool] = True
    reads_taps: ClassVar[bool] = False

    def __call__(
        self, student: Told, teacher: Told | None, batch: dict[str, Array]
    ) -> Float[Array, "B ..."]:
        """The loss of each example [B] (or token [B, T]).

        Args:
          student: logits and activations of the model in training.
          teacher: those of the teacher, without a gradient; None where it needs none.
          batch: the batch, labels included.
        """
        raise NotImplementedError

"""The term: a loss between a student and a teacher (or of the student alone)."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.fields import ranged
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
      accumulates: whether the loss of a batch is the mean over its parts; one that compares the
        rows of a batch, or carries what it saw of them, says no.
    """

    weight: float = 1.0
    teacher: int = ranged(0, "[0, inf)")

    needs_teacher: ClassVar[bool] = True
    reads_taps: ClassVar[bool] = False
    accumulates: ClassVar[bool] = True

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

    @nn.nowrap
    def labels(self, batch: dict[str, Array]) -> Int[Array, " B"] | Float[Array, "B C"]:
        """The label of each example, a class or, where examples are mixed, a distribution.

        Raises:
          UserError: a batch without labels.
        """
        if "label" not in batch:
            raise UserError(
                f"config.objective.terms: {self.name!r} needs a label of each example, and these "
                f"data hold {', '.join(sorted(batch))}"
            )
        return batch["label"]

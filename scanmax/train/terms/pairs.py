"""What terms share that read embeddings of images and texts."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.models.towers import Pairs
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class OfPairs(Term):
    """A term between two towers and the teacher's; a batch is compared with itself.

    What a subclass says of itself:
      hears_several: whether it makes something of several teachers.
    """

    reads_pairs: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False
    hears_several: ClassVar[bool] = False

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        # One teacher's pairs, or those of each of several.
        if not isinstance(teacher.logits, tuple):
            raise UserError(
                f"config.objective.terms: {self.name!r} asks two towers, not a fusion encoder"
            )
        rows = len(student.logits.image)
        mask = batch.get("mask", jnp.ones(rows, bool))
        return self.between(student.logits, teacher.logits, mask)

    def between(self, own: Pairs, told: Pairs, mask: Bool[Array, "B"]) -> Float[Array, "B"]:
        """The loss of each example; those that the mask leaves out are no partners either."""
        raise NotImplementedError

    @nn.nowrap
    def check(self, teachers: int) -> None:
        """Refuses several teachers, where it can hear one.

        Raises:
          UserError: several.
        """
        super().check(teachers)
        if len(self.teachers) > 1 and not self.hears_several:
            raise UserError(
                f"config.objective.terms: {self.name!r} asks one teacher, not {self.teacher}; "
                "name the term once for each"
            )

"""A hint: an activation of the student, projected, imitates one of the teacher."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import Dense
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Hint(Term):
    """mean (project(student) - teacher)^2 over the tokens and the teacher's channels.

    The projector is a learned linear map to the teacher's width, of the same width too; it lies
    under "projector" beside the model. Maps [B, Y, X, C] are read as Y X tokens. Where student and
    teacher have another number of tokens, the term is refused unless `pool` averages them: nothing
    says which token of one belongs to which of the other.

    Attributes:
      student_tap: path of the student's activation; vision models have "stem", "block_00/output",
        ..., "pre_logits".
      teacher_tap: path of the teacher's.
      pool: whether tokens are averaged first.
      normalise: whether the teacher's vectors are brought to mean 0 and variance 1 over channels.

    Source: Romero et al., FitNets (2015), whose loss is half the sum in place of the mean, and
    whose projector of maps is a convolution.
    """

    student_tap: str = "pre_logits"
    teacher_tap: str = "pre_logits"
    pool: bool = False
    normalise: bool = False

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        own = self.tokens(student.tap(self.student_tap))
        told = self.tokens(teacher.tap(self.teacher_tap))
        if own.shape[1] != told.shape[1]:
            raise UserError(
                f"config.objective.terms: {self.name!r} holds {own.shape[1]} tokens of the "
                f"student's {self.student_tap!r} against {told.shape[1]} of the teacher's "
                f"{self.teacher_tap!r}: take taps of equal maps, or pool=True"
            )
        if self.normalise:
            told = jax.nn.standardize(told, axis=-1)
        project = Dense(told.shape[-1], ("embed", None), name="projector", dtype=own.dtype)
        return jnp.mean(jnp.square(project(own) - told), axis=(1, 2))

    def tokens(self, x: Float[Array, "B ... D"]) -> Float[Array, "B T D"]:
        """Vectors and maps as tokens, in float32 or wider."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(x.shape[0], -1, x.shape[-1])
        return jnp.mean(x, axis=1, keepdims=True) if self.pool else x

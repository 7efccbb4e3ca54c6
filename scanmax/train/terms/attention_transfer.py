"""Attention transfer: where on a map the activations of student and teacher are large."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class AttentionTransfer(Term):
    """mean (a_s / |a_s| - a_t / |a_t|)^2, where a is the mean of x^2 over the channels.

    Widths may differ, places may not: maps [B, Y, X, C] are read as Y X tokens.

    Attributes:
      student_tap: path of the student's activation, "stem", "block_00/output", ...
      teacher_tap: path of the teacher's.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention (2017); power and mean of
    the released code, whose weight is 1000.
    """

    student_tap: str = "block_00/output"
    teacher_tap: str = "block_00/output"

    reads_taps: ClassVar[bool] = True

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        own = attention(student.tap(self.student_tap))
        told = attention(teacher.tap(self.teacher_tap))
        if own.shape != told.shape or own.shape[1] < 2:
            raise UserError(
                f"config.objective.terms: {self.name!r} holds {own.shape[1]} places of the "
                f"student's {self.student_tap!r} against {told.shape[1]} of the teacher's "
                f"{self.teacher_tap!r}: take taps of equal maps"
            )
        return jnp.mean(jnp.square(own - told), axis=-1)


def attention(x: Float[Array, "B ... C"]) -> Float[Array, "B T"]:
    """The mean square of each place, of norm 1 over the places."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.mean(x * x, axis=-1).reshape(x.shape[0], -1)
    total = jnp.sum(squares * squares, axis=-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(total > 0, total, 1))
    return squares / norm

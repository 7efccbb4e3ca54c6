"""Prototype-guided distillation between tasks: what a teacher sees, of any classes."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.models.layers import Dense, partitioned
from scanmax.train.losses.cross_entropy import softmax_cross_entropy
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, as_tokens, with_places


class ProcKd(Term):
    """bank * |t - A(t)|^2 + CE(rest of the student on s + W A(Q s), label).

        A(x) = softmax(x P^T / sqrt D) P

    A bank of prototypes P learns what the local features t of a teacher are made of, which may
    know other classes. The student's features s read it, and its layers behind them learn the
    label of what they read together; that gradient does not move the bank, so that student and bank
    learn in one run. In training alone: the student answers without the bank, and keeps its own
    loss of labels (`objective.weight`). Squares are means. No code is published; where the abstract
    leaves open how features are fused, they are added.

    Attributes:
      student_tap: path of s.
      teacher_tap: path of t.
      prototypes: how many.
      bank: weight of the bank's own loss.

    Reference: proc-kd
    """

    student_tap: str = "block_00/output"
    teacher_tap: str = "block_00/output"
    prototypes: int = ranged(64, "[1, inf)")
    bank: float = ranged(1.0, "(0, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        told = as_tokens(as_map(teacher.tap(self.teacher_tap), self.teacher_tap))
        width = told.shape[-1]
        init = partitioned(nn.initializers.normal(1.0), (None, "embed"), (), (-1,))
        shape = (self.prototypes, width)
        prototypes = self.param("prototypes", init, shape, jnp.float32).astype(told.dtype)
        loss = jnp.mean(jnp.square(told - recalled(told, prototypes)), axis=(1, 2))

        seen = student.tap(self.student_tap)
        own = as_map(seen, self.student_tap)
        dtype = {"dtype": own.dtype}
        asked = Dense(width, ("embed", None), name="ask", **dtype)(own)
        read = recalled(asked, jax.lax.stop_gradient(prototypes))
        added = Dense(own.shape[-1], (None, "embed"), use_bias=False, name="add", **dtype)(read)
        answer = student.resume(self.student_tap, with_places(seen, own + added)).logits
        return self.bank * loss + softmax_cross_entropy(answer, self.labels(batch))


def recalled(x: Float[Array, "... D"], prototypes: Float[Array, "P D"]) -> Float[Array, "... D"]:
    """softmax(x P^T / sqrt D) P"""
    return jax.nn.softmax(x @ prototypes.T * x.shape[-1] ** -0.5) @ prototypes

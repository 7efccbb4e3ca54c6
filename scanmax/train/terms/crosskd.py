"""Cross-head distillation: the student's activation goes through the rest of the teacher."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice, ranged
from scanmax.models.layers import Dense
from scanmax.train.losses import soft_distillation
from scanmax.train.losses.base import accumulated
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, equal_maps, with_places


class CrossKd(Term):
    """distance(teacher's answer, the teacher's answer of the student's activation).

    The activation stands at `teacher_tap`; the teacher's layers behind it are frozen, and gradients
    flow through them. The student's own answer is held to labels alone, so that the two targets do
    not quarrel there. A learned linear map joins other widths; maps are of equal size. With equal
    models the loss is 0.

        distance "kl":      t^2 KL(softmax(teacher / t) || softmax(crossed / t))
        distance "quality": sum_c |p_c - q_c|^gamma BCE(q_c, p_c), of sigmoids, as detectors have it

    Attributes:
      student_tap: path of the student's activation.
      teacher_tap: path of the teacher's that it takes the place of.
      distance: "kl" or "quality".
      temperature: t.
      gamma: of "quality".

    Reference: crosskd
    """

    student_tap: str = "block_00/output"
    teacher_tap: str = "block_00/output"
    distance: str = choice("kl", ("kl", "quality"))
    temperature: float = ranged(1.0, "(0, inf)")
    gamma: float = ranged(1.0, "[0, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        seen = teacher.tap(self.teacher_tap)
        own = as_map(student.tap(self.student_tap), self.student_tap)
        place = as_map(seen, self.teacher_tap)
        equal_maps(own, place, f"config.objective.terms: {self.name!r}")
        if own.shape[-1] != place.shape[-1]:
            own = Dense(place.shape[-1], ("embed", None), name="adapter", dtype=own.dtype)(own)
        crossed = teacher.resume(self.teacher_tap, with_places(seen, own)).logits
        if self.distance == "kl":
            return soft_distillation(crossed, teacher.logits, temperature=self.temperature)
        crossed, told = accumulated(crossed), jax.nn.sigmoid(accumulated(teacher.logits))
        entropy = jax.nn.softplus(crossed) - told * crossed
        away = jnp.abs(jax.lax.stop_gradient(jax.nn.sigmoid(crossed)) - told)
        return jnp.sum(away**self.gamma * entropy, axis=-1)

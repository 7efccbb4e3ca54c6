"""Channel-wise distillation: where each channel is active, not how much."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.models.layers import Dense
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, as_tokens, equal_maps


class Channelwise(Term):
    """t^2 mean over channels of KL(softmax over places (teacher / t) || the same of the student).

    What is added to a whole channel changes nothing. A learned linear map joins other widths, which
    on the patches of a stem is TransKD's patch embedding alignment.

    Attributes:
      student_tap: path of the student's activation.
      teacher_tap: path of the teacher's, of as large a map.
      temperature: t.

    Reference: transkd
    Source: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction (2021).
    """

    student_tap: str = "stem"
    teacher_tap: str = "stem"
    temperature: float = ranged(4.0, "(0, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        own = as_map(student.tap(self.student_tap), self.student_tap)
        told = as_map(teacher.tap(self.teacher_tap), self.teacher_tap)
        equal_maps(own, told, f"config.objective.terms: {self.name!r}")
        if own.shape[-1] != told.shape[-1]:
            own = Dense(told.shape[-1], ("embed", None), name="projector", dtype=own.dtype)(own)
        logs, told_logs = (
            jax.nn.log_softmax(as_tokens(x) / self.temperature, axis=1) for x in (own, told)
        )
        divergence = jnp.sum(jnp.exp(told_logs) * (told_logs - logs), axis=1)
        return self.temperature**2 * jnp.mean(divergence, axis=-1)

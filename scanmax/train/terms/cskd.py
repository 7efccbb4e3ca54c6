"""Cumulative spatial distillation: patches learn what a teacher says of their place."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice
from scanmax.models.layers import Dense
from scanmax.train.losses import hard_distillation, soft_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, as_tokens, pooled_to

# How the share of what is said of a place falls, of the share of the run that is done.
FALL = {
    "linear": lambda done: 1 - done,
    "square": lambda done: (1 - done) ** 2,
    "cosine": lambda done: jnp.maximum(jnp.cos(done * (math.pi / 2)), 0),
}


class Cskd(Term):
    """mean over places of CE(patch's answer, argmax(d dense + (1 - d) mean of dense)).

    dense is what the teacher says of each place of its last map: its answer if the whole map were
    like that place, which for a head behind average pooling is the head at each place. A linear
    head reads each of the student's patches, whose answers are averaged over the cells of the
    teacher's coarser grid. d falls from 1 to 0 over the run, from what is said of a place to what
    is said of the image.

    Attributes:
      student_tap: path of the student's patches; tokens before them have no place.
      teacher_tap: path of the teacher's last map.
      fall: how d falls: "linear" 1 - x, "square" (1 - x)^2 or "cosine" cos(pi x / 2).
      soft: a divergence in the place of the argmax.

    Reference: cskd
    """

    student_tap: str = "block_00/output"
    teacher_tap: str = "block_00/output"
    fall: str = choice("linear", tuple(FALL))
    soft: bool = False

    reads_taps: ClassVar[bool] = True

    @property
    def follows_run(self) -> bool:
        """Always."""
        return True

    @nn.compact
    def __call__(
        self,
        student: Told,
        teacher: Told,
        batch: dict[str, Array],
        progress: Float[Array, ""] | float = 0.0,
    ) -> Float[Array, "B"]:
        """[B]"""
        seen = teacher.tap(self.teacher_tap)
        places = as_tokens(as_map(seen, self.teacher_tap))
        dense = jax.vmap(
            lambda place: (
                teacher.resume(
                    self.teacher_tap,
                    jnp.broadcast_to(
                        place.reshape(place.shape[0], *(1,) * (seen.ndim - 2), -1), seen.shape
                    ),
                ).logits
            ),
            in_axes=1,
            out_axes=1,
        )(places)
        dense = jax.lax.stop_gradient(dense.astype(places.dtype))
        share = FALL[self.fall](progress)
        target = share * dense + (1 - share) * jnp.mean(dense, axis=1, keepdims=True)
        own = as_map(student.tap(self.student_tap), self.student_tap)
        head = Dense(dense.shape[-1], ("embed", "classes"), name="head", dtype=own.dtype)
        grid = as_map(seen, self.teacher_tap).shape[1:3]
        where = f"config.objective.terms: {self.name!r}"
        answers = as_tokens(pooled_to(head(own), grid, where))
        if self.soft:
            return jnp.mean(soft_distillation(answers, target, temperature=1.0), axis=1)
        return jnp.mean(hard_distillation(answers, target), axis=1)

"""Module-to-module distillation: each module of the student against the teacher's in one frame."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.layers import Dense
from scanmax.train.losses import soft_distillation
from scanmax.train.losses.cross_entropy import softmax_cross_entropy
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, equal_maps, with_places


class Two(NamedTuple):
    """What the two teachers say of a batch.

    Attributes:
      meta: the frame.
      teacher: whose modules teach.
    """

    meta: Told
    teacher: Told


class M2mKd(Term):
    """sum_i share * CE(s_i, label) + (1 - share) * t^2 KL(softmax(t_i / t) || softmax(s_i / t)).

    Cuts split student, teacher and a small trained model, the meta model, into as many modules.
    s_i is the meta model's answer with the student's i-th module in the place of its own, t_i that
    with the teacher's. Meta model and teacher are frozen: each module learns alone, and all at once
    in one run, since no gradient leaves a module. Where widths differ, learned linear maps stitch
    the student's module in; meta model and teacher are of one width. With `objective.weight=0` it
    is the first of two runs; the second trains the student as a whole, from its checkpoint
    (`config.init_from`). The released code divides the divergence by the number of classes too.

    Attributes:
      teacher: the meta model and the teacher, two indices.
      student_cuts: paths of the activations where modules of the student end, but the last.
      meta_cuts: of the meta model.
      teacher_cuts: of the teacher.
      share: of the label.
      temperature: t.

    Reference: m2mkd
    """

    teacher: int | tuple[int, ...] = ranged((0, 1), "[0, inf)")
    student_cuts: tuple[str, ...] = ("block_00/output",)
    meta_cuts: tuple[str, ...] = ("block_00/output",)
    teacher_cuts: tuple[str, ...] = ("block_00/output",)
    share: float = ranged(0.5, "[0, 1]")
    temperature: float = ranged(1.0, "(0, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Two, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        meta, labels, total = teacher.meta, self.labels(batch), 0.0
        last = len(self.meta_cuts)
        for index in range(last + 1):
            x = self.passed(teacher.teacher, self.teacher_cuts, index, meta)
            told = x if index == last else self.ahead(meta, index, x).logits
            x = self.passed(student, self.student_cuts, index, meta, stitched=True)
            own = x if index == last else self.ahead(meta, index, x, stitched=True).logits
            told = soft_distillation(own, jax.lax.stop_gradient(told), temperature=self.temperature)
            total += self.share * softmax_cross_entropy(own, labels) + (1 - self.share) * told
        return total

    def passed(
        self, told: Told, cuts: tuple[str, ...], index: int, meta: Told, stitched: bool = False
    ) -> Array:
        """What a model's module makes of the meta model's activation before it, or of the input."""
        if index:
            x = meta.tap(self.meta_cuts[index - 1])
            path = cuts[index - 1]
            value = self.fitted(x, told.tap(path), f"stitch_in_{index}", stitched)
            told = told.resume(path, value)
        return told.logits if index == len(cuts) else told.tap(cuts[index])

    def ahead(self, meta: Told, index: int, x: Array, stitched: bool = False) -> Told:
        """What the meta model says with x behind its module."""
        path = self.meta_cuts[index]
        return meta.resume(path, self.fitted(x, meta.tap(path), f"stitch_out_{index}", stitched))

    def fitted(self, x: Array, seen: Array, name: str, stitched: bool) -> Array:
        """x in the layout and width of another activation."""
        seen = jax.lax.stop_gradient(seen)
        if x.shape[-1] != seen.shape[-1]:
            if not stitched:
                raise UserError(
                    f"config.objective.terms: {self.name!r}: meta model and teacher must be of one "
                    f"width at their cuts, which are {x.shape[-1]} and {seen.shape[-1]}"
                )
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            x = Dense(seen.shape[-1], ("embed", None), name=name, dtype=x.dtype)(x)
        if x.shape == seen.shape:
            return x
        places, own = as_map(x, name), as_map(seen, name)
        equal_maps(places, own, f"config.objective.terms: {self.name!r}")
        return with_places(seen, places)

    @nn.nowrap
    def hear(self, told: Mapping[int, Told]) -> Two:
        """Both, apart."""
        return Two(*(told[index] for index in self.teachers))

    @nn.nowrap
    def check(self, teachers: int) -> None:
        """Refuses cuts that do not fit.

        Raises:
          UserError: not two teachers, or numbers of cuts that differ.
        """
        super().check(teachers)
        if len(self.teachers) != 2:
            raise UserError(
                f"config.objective.terms: {self.name!r} asks a meta model and a teacher, "
                f"not teacher={self.teacher}"
            )
        counts = {len(cuts) for cuts in (self.student_cuts, self.meta_cuts, self.teacher_cuts)}
        if counts == {0} or len(counts) > 1:
            raise UserError(
                f"config.objective.terms: {self.name!r} needs as many cuts of each model, at least "
                f"one: {self.student_cuts}, {self.meta_cuts}, {self.teacher_cuts}"
            )

"""Cross selective fusion: a student's stages, deep into shallow, against a teacher's stages."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.layers import Conv, Dense, LayerNorm
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, equal_maps

# Sides to which maps are averaged besides; each counts half of the one before.
SIDES = (4, 2, 1)


class SelectiveFusion(Term):
    """sum over stages of w * hierarchical squares(expand(fused stage), teacher's stage).

    From the deepest stage to the shallowest: a linear map brings a stage to `width`, the deeper
    fused map, made as large, joins it by two weights of each channel that both together choose
    (softmax of two), and a 3 x 3 convolution brings it to the teacher's width. The distance is the
    mean square of the maps, and of their averages over 4, 2 and 1 cells a side, each with half the
    weight, over the sum of the weights. Released: batch norm where layer norm stands here.

    Attributes:
      student_taps: paths of the student's stages, shallow first.
      teacher_taps: paths of the teacher's, of as large maps.
      stage_weights: w of each; () is 1 each.
      width: that stages are fused at.

    Reference: transkd
    """

    student_taps: tuple[str, ...] = ("stem", "block_00/output")
    teacher_taps: tuple[str, ...] = ("stem", "block_00/output")
    stage_weights: tuple[float, ...] = ranged((), "[0, inf)")
    width: int = ranged(64, "[1, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        weights = self.stage_weights or (1.0,) * len(self.student_taps)
        fused, total = None, 0.0
        for stage in reversed(range(len(self.student_taps))):
            own = as_map(student.tap(self.student_taps[stage]), self.student_taps[stage])
            told = as_map(teacher.tap(self.teacher_taps[stage]), self.teacher_taps[stage])
            equal_maps(own, told, f"config.objective.terms: {self.name!r} stage {stage}")
            fuse = Fusion(self.width, told.shape[-1], name=f"fuse_{stage}")
            fused, answer = fuse(own, fused)
            total += weights[stage] * hierarchical(answer, told)
        return total

    def check(self, teachers: int) -> None:
        super().check(teachers)
        counts = {len(self.student_taps), len(self.teacher_taps)}
        counts |= {len(self.stage_weights)} if self.stage_weights else set()
        if len(counts) != 1 or not self.student_taps:
            raise UserError(
                f"config.objective.terms: {self.name!r} needs as many student_taps as teacher_taps "
                f"and stage_weights: {self.student_taps}, {self.teacher_taps}, {self.stage_weights}"
            )


class Fusion(nn.Module):
    """One stage: fused with the deeper one, and brought to the teacher's width.

    Attributes:
      width: of what is fused.
      features: of the answer.
    """

    width: int
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], deeper: Float[Array, "B y x W"] | None
    ) -> tuple[Float[Array, "B Y X W"], Float[Array, "B Y X D"]]:
        own = {"dtype": x.dtype}
        x = LayerNorm(name="norm0", **own)(Dense(self.width, name="reduce", **own)(x))
        if deeper is not None:
            deeper = jax.image.resize(deeper, x.shape, "nearest")
            both = jnp.mean(x + deeper, axis=(1, 2))
            hidden = nn.relu(Dense(max(self.width // 8, 4), name="squeeze", **own)(both))
            chosen = Dense(2 * self.width, ("mlp", "embed"), name="choose", **own)(hidden)
            chosen = jax.nn.softmax(chosen.reshape(-1, 2, self.width), axis=1)[:, :, None, None]
            x = chosen[:, 0] * x + chosen[:, 1] * deeper
        answer = Conv(self.features, 3, name="expand", **own)(x)
        return x, LayerNorm(name="norm1", **own)(answer)


def hierarchical(own: Float[Array, "B Y X C"], told: Float[Array, "B Y X C"]) -> Float[Array, "B"]:
    """The mean square, of the maps and of their averages over fewer and fewer cells."""
    total, weight, weights = jnp.mean(jnp.square(own - told), axis=(1, 2, 3)), 1.0, 1.0
    for side in SIDES:
        if side >= own.shape[1]:
            continue
        weight /= 2
        weights += weight
        pooled = (averaged(x, side) for x in (own, told))
        first, second = pooled
        total += weight * jnp.mean(jnp.square(first - second), axis=(1, 2, 3))
    return total / weights


def averaged(x: Float[Array, "B Y X C"], side: int) -> Float[Array, "B S S C"]:
    """Means over side x side cells, which overlap where they do not divide the map, as torch's."""
    for axis in (1, 2):
        size = x.shape[axis]
        ends = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
        cells = [jnp.mean(jax.lax.slice_in_dim(x, *pair, axis=axis), axis=axis) for pair in ends]
        x = jnp.stack(cells, axis=axis)
    return x

"""Attention maps: each query of the student weighs keys as the teacher's does, layer by layer."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term

# Below it a weight's logarithm is that of nothing.
SMALLEST = 1e-20


class AttentionMap(Term):
    """maps * mean KL(A_t || A_s) + outputs * mean (x_t - x_s)^2 over the layers.

    A are the attention weights of each layer, head and query; x are the outputs of the blocks, as
    wide as the teacher's (a student in fewer bits is a copy of it). A student of fewer layers is
    held to evenly spaced ones, its last to the teacher's last. Both models' mixers must
    give their matrix over tokens; where heads differ in number, their means are compared.

    Attributes:
      maps: weight of the attention maps.
      outputs: weight of the blocks' outputs; 0 leaves them out.

    Reference: kd-qat-attention
    """

    maps: float = ranged(1.0, "[0, inf)")
    outputs: float = ranged(0.0, "[0, inf)")

    reads_taps: ClassVar[bool] = True

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        total = jnp.zeros(len(student.logits), jnp.promote_types(student.logits.dtype, jnp.float32))
        if self.maps:
            total += self.maps * self.mean_over(student, teacher, "attention", divergence)
        if self.outputs:
            total += self.outputs * self.mean_over(student, teacher, "output", squares)
        return total

    def mean_over(self, student: Told, teacher: Told, name: str, distance) -> Array:
        """The mean distance over the pairs of layers that have a tap of that name."""
        own, told = (
            [value for path, value in each.taps.items() if path.rpartition("/")[2] == name]
            for each in (student, teacher)
        )
        where = f"config.objective.terms: {self.name!r}"
        if not own or not told or len(told) % len(own):
            raise UserError(
                f"{where}: {len(own)} layers of the student give {name!r} against "
                f"{len(told)} of the teacher, which must be as many or a multiple"
            )
        every = len(told) // len(own)
        found = []
        for x, y in zip(own, told[every - 1 :: every]):
            x, y = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (x, y))
            if name == "attention" and x.shape[1] != y.shape[1]:
                x, y = (jnp.mean(z, axis=1, keepdims=True) for z in (x, y))
            if x.shape != y.shape:
                raise UserError(
                    f"{where}: {name!r} is {x.shape[1:]} of the student and {y.shape[1:]} "
                    "of the teacher"
                )
            found.append(distance(x, y))
        return sum(found) / len(found)


def divergence(own: Float[Array, "B H T S"], told: Float[Array, "B H T S"]) -> Float[Array, "B"]:
    """The mean over heads and queries of KL(told || own)."""
    logs = (jnp.log(jnp.maximum(weights, SMALLEST)) for weights in (told, own))
    told_log, own_log = logs
    return jnp.mean(jnp.sum(told * (told_log - own_log), axis=-1), axis=(1, 2))


def squares(own: Float[Array, "B ..."], told: Float[Array, "B ..."]) -> Float[Array, "B"]:
    """The mean squared difference."""
    return jnp.mean(jnp.square(own - told).reshape(own.shape[0], -1), axis=1)

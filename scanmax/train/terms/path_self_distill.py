"""Self-distillation between paths: what the first blocks add up to answers as all of them do."""

import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses import soft_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term

SUMS = r"block_(\d+)/({})"


class PathSelfDistill(Term):
    """mean over short paths of t^2 KL(softmax(sg y / t) || softmax(head(norm(x_l)) / t)).

    x_l is the sum of the paths up to block l, with its scales where the model has
    `ensemble_scale`, which the model's own last norm and head read; y is the model's answer, of
    which nothing learns here. It asks no teacher.

    Attributes:
      blocks: l, how many blocks the short paths have, such as (3, 6, 9); () is all but the last.
      temperature: t.

    Reference: vit-path-ensemble
    """

    blocks: tuple[int, ...] = ranged((), "[1, inf)")
    temperature: float = ranged(1.0, "(0, inf)")

    needs_teacher: ClassVar[bool] = False
    reads_taps: ClassVar[bool] = True

    def __call__(
        self, student: Told, teacher: Told | None, batch: dict[str, Array]
    ) -> Float[Array, "B"]:
        """[B]"""
        taps, depth = self.sums(student)
        lengths = self.blocks or range(1, depth)
        if not lengths or max(lengths) >= depth:
            raise UserError(
                f"config.objective.terms: {self.name!r}: blocks={self.blocks} of a model of "
                f"{depth} blocks; short paths have 1 to {depth - 1}"
            )
        answer = jax.lax.stop_gradient(one_of(student.logits))
        losses = []
        for length in lengths:
            short = student.resume(taps[depth - 1], student.tap(taps[length - 1]))
            losses.append(
                soft_distillation(one_of(short.logits), answer, temperature=self.temperature)
            )
        return jnp.mean(jnp.stack(losses), axis=0)

    @nn.nowrap
    def sums(self, student: Told) -> tuple[dict[int, str], int]:
        """The path of the tap that holds the sum up to each block, and how many blocks there are.

        Raises:
          UserError: a model without such taps.
        """
        for name in ("ensemble", "output"):
            found = [re.fullmatch(SUMS.format(name), path) for path in student.taps]
            taps = {int(match[1]): match[0] for match in found if match}
            if taps:
                return taps, max(taps) + 1
        raise UserError(
            f"config.objective.terms: {self.name!r} reads block_00/output and so on, of a ViT; "
            f"this model has {', '.join(student.taps) or 'no taps'}"
        )


def one_of(logits: Array | tuple[Array, ...]) -> Array:
    """The logits, or the first of a pair."""
    return logits[0] if isinstance(logits, tuple) else logits

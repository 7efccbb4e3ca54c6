"""Hard distillation: the teacher's decision is a label."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses import hard_distillation
from scanmax.train.losses.base import class_weights
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Hard(Term):
    """Cross-entropy with the teacher's most likely class.

    For classes that are not alike common, DeiT-LT weighs examples by the inverse of the effective
    number of the class that the teacher names, late in the run: `counts`, `beta` and `defer` as the
    losses of labels have them. torch divides by the sum of a batch's weights, where this is a mean.

    Attributes:
      counts: training examples of each class; () weighs none.
      beta: 0 weighs all alike; towards 1 weights become those of 1 / n.
      defer: share of the run before weights count.

    Reference: deit, deit-lt
    """

    counts: tuple[int, ...] = ranged((), "[1, inf)")
    beta: float = ranged(0.0, "[0, 1)")
    defer: float = ranged(0.0, "[0, 1)")

    @property
    def follows_run(self) -> bool:
        """Where weights are deferred."""
        return self.defer > 0

    def __call__(
        self,
        student: Told,
        teacher: Told,
        batch: dict[str, Array],
        progress: Float[Array, ""] | float = 0.0,
    ) -> Float[Array, "B"]:
        """[B], or [B, T] of tokens."""
        values = hard_distillation(student.logits, teacher.logits)
        if not self.beta:
            return values
        if len(self.counts) != teacher.logits.shape[-1]:
            raise UserError(
                f"config.objective.terms: {self.name!r} weighs {len(self.counts)} classes, and the "
                f"teacher answers with {teacher.logits.shape[-1]}"
            )
        weights = jnp.asarray(class_weights(tuple(self.counts), self.beta), values.dtype)
        own = weights[jnp.argmax(teacher.logits, axis=-1)]
        return jnp.where(progress >= self.defer, own, 1) * values

    def check(self, teachers: int) -> None:
        super().check(teachers)
        if bool(self.counts) != (self.beta > 0) or (self.defer and not self.beta):
            raise UserError(
                f"config.objective.terms: {self.name!r} weighs classes by counts and beta "
                f"together, and defers nothing else: counts={self.counts}, beta={self.beta}"
            )

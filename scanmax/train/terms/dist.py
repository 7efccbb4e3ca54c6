"""DIST: a student that ranks classes, and examples of a class, as its teacher does."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.fields import ranged
from scanmax.train.losses import softened
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Dist(Term):
    """t^2 (beta (1 - corr over classes) + gamma mean_c (1 - corr over examples)).

    corr is Pearson's, of softmax(student / t) and softmax(teacher / t): blind to the size and the
    mean of the logits. The first part is of each example, the second of each class over the rows of
    the batch, and the same for all of them.

    Attributes:
      beta: weight of the relations between the classes of an example.
      gamma: weight of the relations between the examples of a class.
      temperature: t.

    Source: Huang et al., Knowledge Distillation from A Stronger Teacher (2022); defaults of the
    released code, beta and gamma of its ImageNet recipes.
    """

    beta: float = ranged(1.0, "[0, inf)")
    gamma: float = ranged(1.0, "[0, inf)")
    temperature: float = ranged(1.0, "(0, inf)")

    accumulates: ClassVar[bool] = False

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        mask = batch["mask"][:, None]
        own, told = (
            jax.nn.softmax(softened(jnp.where(mask, one.logits, 0), self.temperature))
            for one in (student, teacher)
        )
        between_classes = 1 - correlation(own, told, jnp.ones_like(own, bool), -1)
        kept = jnp.broadcast_to(mask, own.shape)
        between_examples = jnp.mean(1 - correlation(own, told, kept, 0))
        return self.temperature**2 * (self.beta * between_classes + self.gamma * between_examples)


def correlation(
    x: Float[Array, "B C"], y: Float[Array, "B C"], kept: Bool[Array, "B C"], axis: int
) -> Float[Array, "N"]:
    """Pearson's correlation along an axis of what is kept; 0 where one of the two is constant."""

    def centred(z):
        mean = jnp.mean(z, axis, keepdims=True, where=kept)
        return jnp.where(kept, z - mean, 0)

    x, y = centred(x), centred(y)
    squares = jnp.sum(x * x, axis) * jnp.sum(y * y, axis)
    # The root's slope at 0 is infinite.
    return jnp.sum(x * y, axis) * jnp.where(squares > 0, squares, jnp.inf) ** -0.5

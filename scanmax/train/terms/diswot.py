"""DisWOT: how alike a student and a teacher see classes and examples, as a loss and as a score."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses.base import accumulated, distributions
from scanmax.train.teachers import Teacher, Told
from scanmax.train.terms.relations import Relations, Similarity, unit_rows


class DisWot(Relations):
    """semantic * |G_t - G_s|^2 / C + relation * |A_t - A_s|^2 / B^2

    A are the products of examples, their rows brought to length 1 (the term `similarity`). G are
    the cosines between classes of the gradient of the cross-entropy by the classifier's kernel,

        g = mean_b (softmax(logits_b) - y_b) h_b^T,   [C, D]

    whose rows weigh channels as Grad-CAM does; h are the pooled features. Neither asks for equal
    widths, nor for a trained student: `diswot_score` ranks students before they learn.

    Attributes:
      semantic: weight of the classes.
      relation: of the examples.

    Reference: diswot
    """

    semantic: float = ranged(1.0, "[0, inf)")
    relation: float = ranged(1.0, "[0, inf)")

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B], of which the classes' part is the same for all."""
        total = jnp.zeros(len(batch["mask"]), jnp.float32)
        if self.semantic:
            labels, kept, cosines = self.labels(batch), batch["mask"], []
            for told, path in ((student, self.student_tap), (teacher, self.teacher_tap)):
                slope = classifier_slope(told.logits, told.tap(path), labels, kept)
                cosines.append(unit_rows(slope) @ unit_rows(slope).T)
            if cosines[0].shape != cosines[1].shape:
                raise UserError(
                    f"config.objective.terms: {self.name!r}: the student knows "
                    f"{len(cosines[0])} classes, the teacher {len(cosines[1])}: semantic=0"
                )
            apart = jnp.sum(jnp.square(cosines[0] - cosines[1])) / len(cosines[0])
            total = total + self.semantic * apart
        if self.relation:
            total = total + self.relation * super().__call__(student, teacher, batch)
        return total

    @nn.nowrap
    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        return Similarity(parent=None).differences(own, told, kept)


def classifier_slope(
    logits: Float[Array, "B C"],
    features: Float[Array, "B ..."],
    labels: Array,
    kept: Bool[Array, "B"],
) -> Float[Array, "C D"]:
    """The gradient of the mean cross-entropy by a linear classifier's kernel, in closed form."""
    logits = jnp.where(kept[:, None], accumulated(logits), 0)
    wrong = jax.nn.softmax(logits) - distributions(labels, logits)
    wrong = jnp.where(kept[:, None], wrong, 0) / jnp.maximum(jnp.sum(kept), 1)
    features = features.astype(logits.dtype).reshape(len(features), -1)
    features = jnp.where(kept[:, None], features, 0)
    return jnp.matmul(wrong.T, features, precision="highest")


def diswot_score(
    student: tuple[nn.Module, Any],
    teacher: tuple[nn.Module, Any],
    images: Float[Array, "B Y X C"],
    labels: Array,
    **options: Any,
) -> Float[Array, ""]:
    """How well a student would learn of a teacher, before it does: minus the loss of `DisWot`.

    Args:
      student: a model and its variables, as they are initialised.
      teacher: likewise; they may be trained.
      images: of one batch.
      labels: of them.
      **options: fields of `DisWot`.

    Returns:
      At most 0, that of a student which is its teacher.

    Example:
      >>> from scanmax.testing import SmallNet
      >>> images, labels = jax.random.normal(jax.random.key(0), (4, 4, 4, 1)), jnp.arange(4)
      >>> pairs = []
      >>> for width in (8, 6):
      ...     model = SmallNet(width=width)
      ...     pairs.append((model, model.init(jax.random.key(width), images)))
      >>> taps = {"student_tap": "output", "teacher_tap": "output"}
      >>> bool(diswot_score(*pairs, images, labels, **taps) < 0)
      True
      >>> bool(diswot_score(pairs[0], pairs[0], images, labels, **taps) == 0)
      True

    Reference: diswot
    """
    told = [
        Teacher(type(model).__name__, model, reads_taps=True)(variables, images)
        for model, variables in (student, teacher)
    ]
    batch = {"label": labels, "mask": jnp.ones(len(images), bool)}
    return -jnp.mean(DisWot(name="diswot", **options).apply({}, *told, batch))

"""Relations between the examples of a batch: distances, angles and similarities of activations."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.fields import ranged
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Relations(Term):
    """What terms share that hold relations of activations, not activations, against the teacher's.

    Widths may differ, so that no projector is needed. An activation is read as one vector.

    Attributes:
      student_tap: path of the student's activation; vision models have "stem", "block_00/output",
        ..., "pre_logits".
      teacher_tap: path of the teacher's.
    """

    student_tap: str = "pre_logits"
    teacher_tap: str = "pre_logits"

    reads_taps: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]: the mean of an example's relations to the examples that count."""
        kept = batch["mask"]
        own, told = (
            jnp.where(
                kept[:, None],
                x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(x.shape[0], -1),
                0,
            )
            for x in (student.tap(self.student_tap), teacher.tap(self.teacher_tap))
        )
        return self.differences(own, told, kept)

    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """How far the relations of each example lie from the teacher's."""
        raise NotImplementedError


class Rkd(Relations):
    """Relational distillation: distances of pairs and angles of triplets.

        distance: huber(|s_i - s_j| / mean, |t_i - t_j| / mean) over all pairs
        angle:    huber(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, t_k - t_i)) over all triplets

    huber is the smooth L1 loss, the means are over pairs of different examples. Angles take B^2
    numbers at a time, B^3 products.

    Attributes:
      distance: weight of the distances; 0 leaves them out.
      angle: weight of the angles.

    Source: Park et al., Relational Knowledge Distillation (2019); weights of the released code.
    """

    distance: float = ranged(25.0, "[0, inf)")
    angle: float = ranged(50.0, "[0, inf)")

    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        count = jnp.maximum(jnp.sum(kept), 1)
        total = jnp.zeros_like(own[:, 0])
        if self.distance:
            found = [_distances(x, kept) for x in (own, told)]
            losses = jnp.where(kept[None], huber(*found), 0)
            total += self.distance * jnp.sum(losses, -1) / count
        if self.angle:

            def of_vertex(vertex):
                cosines = []
                for here, x in zip(vertex, (own, told)):
                    sides = unit_rows(x - here[None])
                    cosines.append(sides @ sides.T)
                both = kept[None] & kept[:, None]
                return jnp.sum(jnp.where(both, huber(*cosines), 0))

            angles = jax.lax.map(jax.checkpoint(of_vertex), (own, told))
            total += self.angle * angles / count**2
        return total


class Similarity(Relations):
    """|S / |S| - T / |T||^2 of the rows of the matrices of products S = s s^T, T = t t^T.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation (2019).
    """

    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        rows = [unit_rows(jnp.where(kept[None], x @ x.T, 0)) for x in (own, told)]
        return jnp.sum(jnp.square(rows[0] - rows[1]), -1) / jnp.maximum(jnp.sum(kept), 1)


class Congruence(Relations):
    """mean (K_s - K_t)^2 of kernel matrices, K the Gaussian kernel by its Taylor series.

        K_ij = exp(-2 gamma) sum_p (2 gamma <x_i, x_j>)^p / p!,   p = 0 .. order, |x_i| = 1

    which is exp(-gamma |x_i - x_j|^2) at an endless order. Both models' linear embeddings before it
    are left out: the kernel asks for no equal widths.

    Attributes:
      gamma: width of the kernel.
      order: of the series.

    Source: Peng et al., Correlation Congruence for Knowledge Distillation (2019).
    """

    gamma: float = ranged(0.4, "(0, inf)")
    order: int = ranged(2, "[1, inf)")

    def differences(
        self, own: Float[Array, "B D"], told: Float[Array, "B E"], kept: Bool[Array, "B"]
    ) -> Float[Array, "B"]:
        """[B]"""
        kernels = []
        for x in (own, told):
            product = 2 * self.gamma * (unit_rows(x) @ unit_rows(x).T)
            term = total = jnp.ones_like(product)
            for power in range(1, self.order + 1):
                term = term * product / power
                total = total + term
            kernels.append(math.exp(-2 * self.gamma) * total)
        squares = jnp.where(kept[None], jnp.square(kernels[0] - kernels[1]), 0)
        return jnp.sum(squares, axis=-1) / jnp.maximum(jnp.sum(kept), 1)


def huber(x: Array, y: Array) -> Array:
    """Smooth L1: d^2 / 2 up to a difference of 1, |d| - 1/2 beyond."""
    size = jnp.abs(x - y)
    return jnp.where(size < 1, 0.5 * size * size, size - 0.5)


def row_norms(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """|x| over the last axis, 0 with no gradient where x is 0."""
    square = jnp.sum(x * x, -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def unit_rows(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Vectors of length 1; 0 stays, with no gradient."""
    norm = row_norms(x)[..., None]
    return x / jnp.where(norm > 0, norm, 1)


def _distances(x, kept):
    """[B, B], over the mean of those of two different examples that count."""
    distances = row_norms(x[:, None] - x[None])
    pairs = kept[:, None] & kept[None] & (distances > 0)
    mean = jnp.sum(jnp.where(pairs, distances, 0)) / jnp.maximum(jnp.sum(pairs), 1)
    return distances / jnp.where(mean > 0, mean, 1)

"""Norm and direction: the student's features grow along the mean of their class."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class NdLossKd(Term):
    """1 - <s, e_y> / max(|s|, |t|), with e_y the direction of the teacher's mean of class y.

    A regulariser beside another term, such as kd or dkd. The released code reads the means from a
    file made before training; here they are summed up as training goes, and after the first epoch
    are those of the training set. A linear projector brings s to the width of t where they differ
    (released: with batch norm and dropout before it). A mixed label weighs the classes' losses.
    The released factors, this term's weight, are 0.5 to 4.

    Attributes:
      student_tap: path of the student's embedding s, a vector.
      teacher_tap: path of the teacher's, t.

    Reference: nd-loss-kd
    """

    student_tap: str = "pre_logits"
    teacher_tap: str = "pre_logits"

    reads_taps: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        s, t = student.tap(self.student_tap), teacher.tap(self.teacher_tap)
        s, t = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (s, t))
        if s.shape[-1] != t.shape[-1]:
            s = Dense(t.shape[-1], ("embed", None), name="projector", dtype=s.dtype)(s)
        share = self.labels(batch)
        if jnp.issubdtype(share.dtype, jnp.integer):
            share = jax.nn.one_hot(share, teacher.logits.shape[-1], dtype=t.dtype)
        shape = (share.shape[-1], t.shape[-1])
        sums = self.variable("class_means", "sums", jnp.zeros, shape, t.dtype)
        if self.is_mutable_collection("class_means") and not self.is_initializing():
            counts = batch["mask"][:, None] if "mask" in batch else True
            sums.value += jnp.where(counts, share, 0).T @ jnp.where(counts, t, 0)
        means = jax.lax.stop_gradient(sums.value)
        length = jnp.linalg.norm(means, axis=-1, keepdims=True)
        direction = share @ (means / jnp.maximum(length, 1e-12))
        squares = jnp.maximum(jnp.sum(s**2, axis=-1), jnp.sum(t**2, axis=-1))
        return 1 - jnp.sum(s * direction, axis=-1) / jnp.sqrt(jnp.maximum(squares, 1e-24))

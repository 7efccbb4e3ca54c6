"""Trilateral geometry: how much each example hears its teacher, learned on what is held out."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.models.layers import Dense
from scanmax.train.losses import soft_distillation, softmax_cross_entropy
from scanmax.train.losses.base import accumulated, distributions
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term

HELD_OUT = "held_out"


class TgeoKd(Term):
    """a_i t^2 KL(teacher_i / t || student_i / t) + (1 - a_i) CE(student_i, y_i), a_i learned.

        a_i = sigmoid(MLP([s - g, t - g, s - t, s - m, m - g]))

    of the distributions s of the student, t of the teacher, g of the label, and the mean m of what
    the teacher says of examples of that class. The MLP has one hidden layer, and learns by the
    gradient of cross-entropy on held-out examples behind a step of the student:
    `optim.gradient="unrolled"`, without which it is refused. The student learns with a_i as they
    are. It holds the label's loss itself: set `objective.weight=0`.

    There is no public code. Chosen here: differences of distributions at temperature 1, side by
    side; m over all examples seen so far, the batch included; t^2 before the divergence; the
    held-out examples are a part of each batch, with an outer step at every one.

    Attributes:
      temperature: t.
      hidden: width of the hidden layer.
      across: whether the MLP is told of m.

    Reference: tgeo-kd
    """

    temperature: float = ranged(4.0, "(0, inf)")
    hidden: int = ranged(64, "[1, inf)")
    across: bool = True

    accumulates: ClassVar[bool] = False
    learns_held_out: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]; of a batch that is marked as held out the cross-entropy alone."""
        labels = self.labels(batch)
        alone = softmax_cross_entropy(student.logits, labels)
        alpha = self.share(student, teacher, batch)
        if HELD_OUT in batch:
            return alone
        told = soft_distillation(student.logits, teacher.logits, temperature=self.temperature)
        kept = batch.get("mask", jnp.ones(len(alpha), bool)).astype(alpha.dtype)
        self.sow("metrics", "alpha", jnp.sum(kept * alpha) / jnp.maximum(kept.sum(), 1))
        return alpha * told + (1 - alpha) * alone

    @nn.compact
    def share(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """a_i, through which gradients flow to the MLP alone."""
        s, t = (
            jax.lax.stop_gradient(jax.nn.softmax(accumulated(told.logits)))
            for told in (student, teacher)
        )
        g = distributions(self.labels(batch), t)
        edges = [s - g, t - g, s - t]
        if self.across:
            mean = self.class_mean(t, g, batch)
            edges += [s - mean, mean - g]
        x = jnp.concatenate(edges, axis=-1)
        init = nn.initializers.lecun_normal()
        x = Dense(self.hidden, ("embed", "mlp"), kernel_init=init, dtype=x.dtype, name="fc0")(x)
        return nn.sigmoid(Dense(1, ("mlp", None), dtype=x.dtype, name="fc1")(nn.relu(x))[:, 0])

    def class_mean(self, t: Array, g: Array, batch: dict[str, Array]) -> Float[Array, "B C"]:
        """The teacher's mean over each example's class, up to this batch."""
        classes = t.shape[-1]
        sums = self.variable("class_means", "sums", jnp.zeros, (classes, classes), t.dtype)
        counts = self.variable("class_means", "counts", jnp.zeros, (classes,), t.dtype)
        kept = batch.get("mask", jnp.ones(len(t), bool))[:, None]
        own = jnp.where(kept, g, 0)
        whole = sums.value + own.T @ jnp.where(kept, t, 0), counts.value + own.sum(axis=0)
        if self.is_mutable_collection("class_means") and not self.is_initializing():
            sums.value, counts.value = whole
        means = whole[0] / jnp.maximum(whole[1], 1e-6)[:, None]
        return jax.lax.stop_gradient(g @ means)

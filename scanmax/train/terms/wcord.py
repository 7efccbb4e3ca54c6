"""Wasserstein contrastive distillation: a Lipschitz critic of pairs, and transport in a batch."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.fields import ranged
from scanmax.models.layers import Dense, partitioned
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.scalekd import unit

POWER_ITERATIONS = 8


class Wcord(Term):
    """contrast * NCE + transport * OT of a batch's student and teacher embeddings.

    With g, h linear heads whose largest singular value is 1, so that the critic
    c_ij = <g(s_i) / |g(s_i)|, h(t_j) / |h(t_j)|> changes no faster than its arguments' directions,

        NCE_i = softplus(-c_ii / t + log N) + sum over j != i of softplus(c_ij / t - log N)
        OT    = sum_ij P_ij (1 - cos(f(s_i), t_j)),  P the plan of ops.sinkhorn, uniform marginals

    where N is the number of the other examples: each is told from what else the batch holds (the
    paper's negatives come from a memory). f brings the student to the teacher's width where they
    differ. The plan is a constant of the gradient, which then is that of the entropic objective;
    OT is the same for all rows. |W| is found by power iterations, from below.

    Attributes:
      student_tap: path of the student's embedding.
      teacher_tap: path of the teacher's.
      contrast: weight of NCE.
      transport: weight of OT.
      temperature: t.
      width: of the heads.
      epsilon: of the transport's entropy.
      iterations: of Sinkhorn.

    Reference: wcord
    """

    student_tap: str = "pre_logits"
    teacher_tap: str = "pre_logits"
    contrast: float = ranged(1.0, "[0, inf)")
    transport: float = ranged(1.0, "[0, inf)")
    temperature: float = ranged(0.1, "(0, inf)")
    width: int = ranged(128, "[1, inf)")
    epsilon: float = ranged(0.05, "(0, inf)")
    iterations: int = ranged(50, "[1, inf)")

    reads_taps: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        kept = batch["mask"]
        own, told = (
            x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(len(x), -1)
            for x in (student.tap(self.student_tap), teacher.tap(self.teacher_tap))
        )
        total = jnp.zeros(len(own), own.dtype)
        if self.contrast:
            heads = (
                unit(Spectral(self.width, name=name)(x))
                for name, x in (("student_head", own), ("teacher_head", told))
            )
            scores = jnp.einsum("id,jd->ij", *heads) / self.temperature
            others = jnp.log(jnp.maximum(jnp.sum(kept) - 1, 1).astype(scores.dtype))
            is_own = jnp.eye(len(own), dtype=bool)
            losses = jax.nn.softplus(jnp.where(is_own, others - scores, scores - others))
            total += self.contrast * jnp.sum(jnp.where(kept[None], losses, 0), axis=1)
        if self.transport:
            if own.shape[-1] != told.shape[-1]:
                fit = Dense(told.shape[-1], ("embed", None), name="projector", dtype=own.dtype)
                own = fit(own)
            cost = 1 - jnp.einsum("id,jd->ij", unit(own), unit(told))
            weights = kept / jnp.maximum(jnp.sum(kept), 1).astype(cost.dtype)
            plan = ops.sinkhorn(
                jax.lax.stop_gradient(cost),
                weights,
                weights,
                epsilon=self.epsilon,
                iterations=self.iterations,
            )
            total += self.transport * jnp.sum(jnp.where(kept[:, None] & kept[None], plan * cost, 0))
        return total


class Spectral(nn.Module):
    """x W / |W|, with |W| the largest singular value by a few power iterations."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        init = partitioned(nn.initializers.lecun_normal(), ("embed", "mlp"), (-2,), (-1,))
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        kernel = kernel.astype(x.dtype)
        return x @ kernel / spectral_norm(kernel)


def spectral_norm(kernel: Float[Array, "D E"]) -> Float[Array, ""]:
    """u^T W v of vectors that power iterations have found, which carry no gradient."""
    matrix = jax.lax.stop_gradient(kernel)
    v = jnp.full(matrix.shape[1], matrix.shape[1] ** -0.5, matrix.dtype)
    for _ in range(POWER_ITERATIONS):
        u = unit(matrix @ v)
        v = unit(matrix.T @ u)
    return u @ kernel @ v

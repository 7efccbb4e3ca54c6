"""A teacher's most probable classes apart from the rest, each by a divergence of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import choice, ranged
from scanmax.train.losses import softened
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term

WAYS = ("forward", "reverse")


class TopKld(Term):
    """t^2 (alpha explicit + beta implicit): KL of the K likeliest classes, and of the others.

    With K the teacher's likeliest classes, P and Q the shares of teacher and student that lie in
    them, and | a distribution over some classes alone:

        explicit = KL([p_K, 1 - P] || [q_K, 1 - Q])      the rest is one class
        implicit = (1 - P) KL(p | rest || q | rest)
        KL(p || q) = explicit + implicit

    so that alpha = beta = 1, both forward, is plain distillation. A reverse divergence swaps the
    two, in `implicit` the share before it too. The abstract does not say which way the paper takes
    each; both are here. Made for many classes, as the tokens of an image generator in few bits.

    Attributes:
      k: how many classes are the likeliest.
      alpha: weight of the explicit part.
      beta: weight of the implicit part.
      explicit: "forward" KL(teacher || student) or "reverse".
      implicit: the same of the others.
      temperature: t.

    Reference: topkld-bit-scaling
    """

    k: int = ranged(10, "[1, inf)")
    alpha: float = ranged(1.0, "[0, inf)")
    beta: float = ranged(1.0, "[0, inf)")
    explicit: str = choice("forward", WAYS)
    implicit: str = choice("forward", WAYS)
    temperature: float = ranged(1.0, "(0, inf)")

    def __call__(
        self, student: Told, teacher: Told, batch: dict[str, Array]
    ) -> Float[Array, "B ..."]:
        """[B], or [B, T] of tokens."""
        classes = teacher.logits.shape[-1]
        if self.k >= classes:
            raise UserError(
                f"config.objective.terms: {self.name!r} parts k={self.k} classes from the rest, "
                f"and there are {classes}"
            )
        logits = softened(teacher.logits, self.temperature)
        _, best = jax.lax.top_k(logits, self.k)
        is_top = jnp.any(jax.nn.one_hot(best, classes, dtype=bool), axis=-2)
        told, others, rest = split(logits, is_top)
        own, own_others, own_rest = split(softened(student.logits, self.temperature), is_top)
        if self.explicit == "reverse":
            told, own = own, told
        explicit = jnp.sum(jnp.exp(told) * (told - own), axis=-1)
        if self.implicit == "reverse":
            others, own_others, rest = own_others, others, own_rest
        implicit = jnp.exp(rest) * jnp.sum(
            jnp.where(is_top, 0, jnp.exp(others) * (others - own_others)), axis=-1
        )
        return self.temperature**2 * (self.alpha * explicit + self.beta * implicit)


def split(
    logits: Float[Array, "*B C"], is_top: Array
) -> tuple[Float[Array, "*B C1"], Float[Array, "*B C"], Float[Array, "*B"]]:
    """(log [p_K, 1 - P], log p | rest, log (1 - P)); where a class is of the other part 0.

    The first has a last entry more, for the rest.
    """
    logs = jax.nn.log_softmax(logits)
    rest = jax.nn.logsumexp(logs, axis=-1, where=~is_top, keepdims=True)
    # Classes outside say 0 of both, which adds nothing.
    top = jnp.concatenate([jnp.where(is_top, logs, 0), rest], axis=-1)
    return top, jnp.where(is_top, 0, logs - rest), rest[..., 0]

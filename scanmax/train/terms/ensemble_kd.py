"""Soft distillation from several teachers whose logits are added, each weighed by the example."""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses import softmax_cross_entropy
from scanmax.train.losses.base import accumulated
from scanmax.train.teachers import Told
from scanmax.train.terms.kd import Kd


class EnsembleKd(Kd):
    """t^2 KL(softmax(z / t) || softmax(student / t)), z = sum_m w_m z_m of the teachers' logits.

    Where `kd` hears the mean of several distributions, this is the geometric one. The weights add
    up to 1,

        w_m = s_m exp(-CE(z_m, label) / weights_temperature) / sum_n ...

    with s the `shares`: alike by default, those of `dataset_shares` for weights of a whole data
    set, and with a finite temperature a softmin of each teacher's loss on each example. The paper
    trains by lambda of this and 1 - lambda of the labels; the release has two free weights, as
    `weight` and `objective.weight` are. Each teacher reads the whole input and may be a model that
    takes its own modality from it.

    Attributes:
      weights_temperature: towards 0 the teacher with the least loss counts alone, inf is `shares`.

    Reference: multimodal-kd-egocentric
    """

    teacher: int | tuple[int, ...] = ranged((0, 1), "[0, inf)")
    weights_temperature: float = ranged(math.inf, "(0, inf]")

    @nn.nowrap
    def hear(self, told: Mapping[int, Told]) -> Told:
        """The logits of each teacher, [M, B, C]."""
        heard = [told[index] for index in self.teachers]
        return heard[0]._replace(logits=jnp.stack([accumulated(each.logits) for each in heard]))

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B], or [B, T] of tokens."""
        weights = self.weights(teacher.logits, batch)
        mixed = jnp.sum(weights[..., None] * teacher.logits, axis=0)
        return super().__call__(student, teacher._replace(logits=mixed), batch)

    @nn.nowrap
    def weights(
        self, logits: Float[Array, "M *B C"], batch: dict[str, Array]
    ) -> Float[Array, "M *B"]:
        """What each teacher counts for on each example."""
        shares = jnp.asarray(self.shares or (1.0,) * len(logits), logits.dtype)
        scores = jnp.log(shares).reshape((-1,) + (1,) * (logits.ndim - 2))
        scores = jnp.broadcast_to(scores, logits.shape[:-1])
        if math.isfinite(self.weights_temperature):
            losses = jax.vmap(softmax_cross_entropy, (0, None))(logits, self.labels(batch))
            scores = scores - losses / self.weights_temperature
        return jax.nn.softmax(scores, axis=0)

    @nn.nowrap
    def check(self, teachers: int) -> None:
        super().check(teachers)
        if len(self.teachers) < 2:
            raise UserError(
                f"config.objective.terms: {self.name!r} weighs several teachers, and "
                f"teacher={self.teacher} names one: that is 'kd'"
            )


def dataset_shares(losses: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """What teachers count for over a whole data set: softmin of their mean losses there.

    The release takes examples that the teachers have not learned.

    Args:
      losses: the mean cross-entropy of each teacher.
      temperature: that losses are divided by; towards inf all count alike.

    Returns:
      `shares` of a term, which add up to 1.

    Raises:
      UserError: a temperature that is not above 0.

    Example:
      >>> [round(share, 3) for share in dataset_shares((0.5, 1.5))]
      [0.731, 0.269]

    Reference: multimodal-kd-egocentric
    """
    if not temperature > 0:
        raise UserError(f"temperature={temperature} must be above 0")
    least = min(losses)
    worth = [math.exp((least - loss) / temperature) for loss in losses]
    return tuple(each / sum(worth) for each in worth)

"""A discriminator that tells answers of the teacher from the student's, which fools it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.models.layers import Dense
from scanmax.train.losses.base import accumulated
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term


class Discriminator(Term):
    """(softplus(-d(teacher)) + softplus(d(student))) / 2, lowered by d and raised by the student.

    d is a net of three layers on logits, learned in the same step: the gradient that reaches the
    student is turned round. MEAL V2 is ("kd", {"teacher": (0, 1), "temperature": 1}) beside this,
    with objective.weight=0: two teachers' mean distribution and no label.

    Attributes:
      width: of the two hidden layers.

    Reference: meal-v2
    """

    width: int = ranged(64, "[1, inf)")

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        own = accumulated(student.logits)
        judge = make_judge(self.width, own.dtype)
        told = judge(accumulated(teacher.logits))
        return (jax.nn.softplus(-told) + jax.nn.softplus(judge(turned(own)))) / 2


def make_judge(width: int, dtype: Any) -> Callable[[Array], Array]:
    """A net of three layers, "fc0" to "fc2" of the module that calls: [..., D] -> [...]."""
    init = nn.initializers.lecun_normal()
    widths = (width, width, 1)
    axes = (("embed", "mlp"), ("mlp", "embed"), ("embed", None))
    layers = [
        Dense(width, names, kernel_init=init, dtype=dtype, name=f"fc{index}")
        for index, (width, names) in enumerate(zip(widths, axes))
    ]

    def judge(x: Float[Array, "... D"]) -> Float[Array, "..."]:
        return layers[2](nn.relu(layers[1](nn.relu(layers[0](x)))))[..., 0]

    return judge


def turned(x: Array) -> Array:
    """x, whose gradient is the other way."""
    return 2 * jax.lax.stop_gradient(x) - x

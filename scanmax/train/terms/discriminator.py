"""A discriminator that tells answers of the teacher from the student's, which fools it."""

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
        init = nn.initializers.lecun_normal()
        own = accumulated(student.logits)
        widths = (self.width, self.width, 1)
        axes = (("embed", "mlp"), ("mlp", "embed"), ("embed", None))
        layers = [
            Dense(width, names, kernel_init=init, dtype=own.dtype, name=f"fc{index}")
            for index, (width, names) in enumerate(zip(widths, axes))
        ]

        def judge(logits):
            return layers[2](nn.relu(layers[1](nn.relu(layers[0](logits)))))[..., 0]

        # The value is the student's, its gradient the other way.
        turned = 2 * jax.lax.stop_gradient(own) - own
        told = judge(accumulated(teacher.logits))
        return (jax.nn.softplus(-told) + jax.nn.softplus(judge(turned))) / 2

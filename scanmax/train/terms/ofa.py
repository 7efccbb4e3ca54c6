"""One for all: students of any architecture answer early, and are held to the teacher's answer."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import choice, ranged
from scanmax.models.layers import Conv, Dense, LayerNorm
from scanmax.train.losses import softened
from scanmax.train.losses.base import is_class
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map


class Ofa(Term):
    """-sum_c w_c log q_c of the model's answer and of answers that are made of its activations.

    With p the teacher's softmax(logits / t), q the student's and y the label's class, the target is
    enhanced where the label is:

        form "paper":     w_y = (1 + p_y)^gamma,      w_c = p_c
        form "released":  w_y = (1 + p_y)^gamma - 1,  w_c = p_c^gamma

    At gamma = 1 the first is soft plus plain cross-entropy, the second soft cross-entropy alone. A
    mixed label stands for its heaviest class. Each tap has a branch beside the model, left behind
    at export: the map is halved by separable convolutions until it is `least` wide, averaged and
    answered from (released: batch norm where layer norm stands here, and for tokens a few blocks of
    a transformer).

    Attributes:
      taps: paths of the student's activations that answer early.
      gamma: how much the label's class is enhanced; the released code takes 1 to 1.5.
      temperature: t.
      form: "released" or "paper".
      least: largest side of a map that is averaged as it is.

    Reference: ofa-kd
    """

    taps: tuple[str, ...] = ()
    gamma: float = ranged(1.2, "(0, inf)")
    temperature: float = ranged(1.0, "(0, inf)")
    form: str = choice("released", ("released", "paper"))
    least: int = ranged(2, "[1, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]: the sum over the model's answer and the branches'."""
        labels = self.labels(batch)
        labels = labels if is_class(labels) else jnp.argmax(labels, axis=-1)
        classes = teacher.logits.shape[-1]
        shares = jax.nn.softmax(softened(teacher.logits, self.temperature))
        is_label = jax.nn.one_hot(labels, classes, dtype=bool)
        enhanced = (1 + shares) ** self.gamma
        if self.form == "paper":
            target = jnp.where(is_label, enhanced, shares)
        else:
            target = jnp.where(is_label, enhanced - 1, shares**self.gamma)
        answers = [student.logits]
        for index, path in enumerate(self.taps):
            x = as_map(student.tap(path), path)
            answers.append(Branch(classes, self.least, name=f"branch_{index}")(x))
        logs = (jax.nn.log_softmax(softened(each, self.temperature)) for each in answers)
        return -sum(jnp.sum(target * each, axis=-1) for each in logs)


class Branch(nn.Module):
    """A map's answer: halved by separable convolutions, averaged, a linear head.

    Attributes:
      classes: of the answer.
      least: largest side that is averaged as it is.
    """

    classes: int
    least: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B K"]:
        index = 0
        while max(x.shape[1:3]) > self.least:
            width = x.shape[-1]
            depthwise = Conv(
                width, (3, 3), stride=2, groups=width, dtype=x.dtype, name=f"depthwise_{index}"
            )
            pointwise = Dense(width, ("embed", "mlp"), dtype=x.dtype, name=f"pointwise_{index}")
            norm = LayerNorm(dtype=x.dtype, name=f"norm_{index}")
            x = nn.relu(norm(pointwise(depthwise(x))))
            index += 1
        init = nn.initializers.lecun_normal()
        head = Dense(self.classes, ("embed", "classes"), kernel_init=init, dtype=x.dtype, name="fc")
        return head(jnp.mean(x, axis=(1, 2)))

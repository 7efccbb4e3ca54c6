"""The term: a loss between a student and a teacher (or of the student alone)."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses.base import accumulated
from scanmax.train.teachers import Told


class Term(nn.Module):
    """A loss beside the objective's own. A subclass is one file, and one name of TERMS.

    `objective.terms=(("dkd", {"weight": 1.0}), ...)` builds it; its fields are the options. What it
    learns (a projector, a predictor) are submodules: they lie under the term's name beside the
    model, and are left behind at export.

    Attributes:
      weight: what its values are multiplied by.
      schedule: pairs (share of the run, factor of the weight), shares ascending, with straight
        lines between them: ((0, 0), (0.1, 1)) raises it over the first tenth. () is 1 throughout.
      teacher: index of the teacher that it asks; of several, (0, 1), it hears the mean of their
        distributions, and the activations of the first.
      shares: how much each of several counts, in any scale; () is alike.

    What a subclass says of itself:
      needs_teacher: whether it holds the student against a teacher.
      reads_taps: whether it reads activations, `student.tap("block_03/output")`.
      reads_pairs: whether it reads embeddings of images and texts, `student.logits` being `Pairs`.
      accumulates: whether the loss of a batch is the mean over its parts; one that compares the
        rows of a batch, or carries what it saw of them, says no.
      learns_held_out: whether its parameters learn from what is held out, by
        `optim.gradient="unrolled"`: of a batch with "held_out" its values are the held-out loss.
    """

    weight: float = 1.0
    schedule: tuple[tuple[float, float], ...] = ranged((), "[0, inf)")
    teacher: int | tuple[int, ...] = ranged(0, "[0, inf)")
    shares: tuple[float, ...] = ranged((), "[0, inf)")

    needs_teacher: ClassVar[bool] = True
    reads_taps: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    accumulates: ClassVar[bool] = True
    learns_held_out: ClassVar[bool] = False

    def __call__(
        self, student: Told, teacher: Told | None, batch: dict[str, Array]
    ) -> Float[Array, "B ..."]:
        """The loss of each example [B] (or token [B, T]).

        Args:
          student: logits and activations of the model in training.
          teacher: those of the teacher, without a gradient; None where it needs none.
          batch: the batch, labels included.
        """
        raise NotImplementedError

    @property
    def follows_run(self) -> bool:
        """Whether it is called with `progress`, the share of the run that is done."""
        return False

    @property
    def teachers(self) -> tuple[int, ...]:
        """Indices of those that it asks."""
        if not self.needs_teacher:
            return ()
        return (self.teacher,) if isinstance(self.teacher, int) else tuple(self.teacher)

    @nn.nowrap
    def hear(self, told: Mapping[int, Told]) -> Told | None:
        """What the one that it asks has said, or several together.

        Args:
          told: by the index of the teacher.
        """
        heard = [told[index] for index in self.teachers]
        if len(heard) < 2:
            return heard[0] if heard else None
        logs = jnp.stack([jax.nn.log_softmax(accumulated(each.logits)) for each in heard])
        shares = jnp.asarray(self.shares or (1.0,) * len(heard), logs.dtype)
        shares = (shares / shares.sum()).reshape((-1,) + (1,) * (logs.ndim - 1))
        return heard[0]._replace(logits=jax.nn.logsumexp(logs, axis=0, b=shares))

    @nn.nowrap
    def weight_at(self, progress: Float[Array, ""] | float) -> Float[Array, ""] | float:
        """The weight at a share of the run."""
        if not self.schedule:
            return self.weight
        places, factors = (jnp.asarray(part, jnp.float32) for part in zip(*self.schedule))
        return self.weight * jnp.interp(jnp.asarray(progress, jnp.float32), places, factors)

    @nn.nowrap
    def check(self, teachers: int) -> None:
        """Refuses what it could not heed.

        Args:
          teachers: how many there are.

        Raises:
          UserError: a teacher that is not there, or shares or a schedule that do not fit.
        """
        where = f"config.objective.terms: {self.name!r}"
        for index in self.teachers:
            if index >= teachers:
                raise UserError(
                    f"{where} asks teacher {index}, and config.objective.teachers names "
                    f"{teachers or 'none'}"
                )
        if self.needs_teacher and not self.teachers:
            raise UserError(f"{where}: teacher=() names none")
        if self.shares and (len(self.shares) != len(self.teachers) or not sum(self.shares)):
            raise UserError(
                f"{where}: shares={self.shares} must be a number of each of the "
                f"{len(self.teachers)} teachers that it asks, not all 0"
            )
        if any(not isinstance(point, tuple | list) or len(point) != 2 for point in self.schedule):
            raise UserError(
                f"{where}: schedule={self.schedule} must hold pairs of a share of the run and a "
                "factor, such as ((0, 0), (0.1, 1))"
            )
        places = [point[0] for point in self.schedule]
        if places != sorted(set(places)) or any(place > 1 for place in places):
            raise UserError(
                f"{where}: schedule={self.schedule} must name ascending shares of the run, 0 to 1"
            )

    @nn.nowrap
    def labels(self, batch: dict[str, Array]) -> Int[Array, " B"] | Float[Array, "B C"]:
        """The label of each example, a class or, where examples are mixed, a distribution.

        Raises:
          UserError: a batch without labels.
        """
        if "label" not in batch:
            raise UserError(
                f"config.objective.terms: {self.name!r} needs a label of each example, and these "
                f"data hold {', '.join(sorted(batch))}"
            )
        return batch["label"]

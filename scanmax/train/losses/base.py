"""What a loss of classes is given, and gives; how labels are smoothed and examples weighed."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.metrics import is_correct

Labels = Int[Array, "*B"] | Float[Array, "*B C"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of logits and labels. A subclass is one file, and one name of LOSSES.

    `objective.loss="focal"` names it, its fields are `objective.loss_kwargs`. It computes in
    float32 or wider whatever the logits' dtype, and takes any axes before that of the classes. Any
    loss may weigh examples by how common their class is: by the inverse of the effective number
    (1 - beta^n) / (1 - beta) of its n training examples, the weights of all classes together 1 a
    class (Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019).

    Attributes:
      counts: training examples of each class.
      beta: 0 weighs all alike; towards 1 weights become those of 1 / n.
      defer: share of a run before weights count (Cao et al., 2019, deferred re-weighting).

    What a subclass says of itself:
      blends: whether labels may be distributions, as mixing makes them.
      smooths: whether labels may be smoothed.
      reads_counts: whether it reads `counts` for more than weights.
    """

    counts: tuple[int, ...] = ()
    beta: float = ranged(0.0, "[0, 1)")
    defer: float = ranged(0.0, "[0, 1)")

    blends: ClassVar[bool] = True
    smooths: ClassVar[bool] = True
    reads_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.counts, tuple | list) or any(
            not isinstance(count, int) or count < 1 for count in self.counts
        ):
            raise ValueError(f"counts={self.counts!r} must be the examples of each class, above 0")
        if self.counts and not (self.beta or self.reads_counts):
            raise ValueError("counts weigh nothing at beta=0; choose one such as beta=0.999")
        if (self.beta or self.reads_counts) and not self.counts:
            raise ValueError("it needs counts, the training examples of each class")
        if self.defer and not self.beta:
            raise ValueError(f"defer={self.defer} defers weights, and beta=0 gives none")

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """The loss of each example.

        Args:
          logits: in float32 or wider.
          labels: class indices, or distributions where the loss `blends`.
          smoothing: share of the label spread evenly over the classes; 0 where it does not smooth.
        """
        raise NotImplementedError

    def __call__(
        self,
        logits: Float[Array, "*B C"],
        labels: Labels,
        *,
        label_smoothing: float = 0.0,
        progress: Float[Array, ""] | None = None,
    ) -> Float[Array, "*B"]:
        """The loss of each example, weighed.

        Args:
          logits: of any dtype.
          labels: class indices [*B], or distributions [*B, C].
          label_smoothing: share e of the target spread evenly: p = (1 - e) label + e / C.
          progress: share of the run that is done; None is none of it.

        Raises:
          UserError: labels that it has no equation for, or counts of other classes.
        """
        if not is_class(labels) and not self.blends:
            raise UserError(self.refusal("mixed"))
        if label_smoothing and not self.smooths:
            raise UserError(self.refusal("smoothed"))
        if self.counts and len(self.counts) != logits.shape[-1]:
            raise UserError(
                f"config.objective.loss_kwargs: counts holds {len(self.counts)} classes, the model "
                f"answers with {logits.shape[-1]}"
            )
        values = self.value(accumulated(logits), labels, label_smoothing)
        if not self.beta:
            return values
        weights = jnp.asarray(class_weights(tuple(self.counts), self.beta), values.dtype)
        own = weights[labels] if is_class(labels) else labels.astype(values.dtype) @ weights
        if self.defer:
            own = jnp.where((0.0 if progress is None else progress) >= self.defer, own, 1)
        return own * values

    def is_correct(self, logits: Float[Array, "*B C"], labels: Labels) -> Array:
        """Whether the label's class is the one that the logits choose.

        Of a mixed label that is its heaviest class.
        """
        return is_correct(logits, labels)

    def probabilities(self, logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """How likely each class is, as the loss reads logits; softmax unless it says otherwise."""
        return jax.nn.softmax(accumulated(logits))

    def refusal(self, what: str) -> str:
        """The line that refuses labels that are "mixed" or "smoothed"."""
        cure = {"mixed": "config.mix=()", "smoothed": "config.objective.label_smoothing=0"}
        return f"the loss {type(self).__name__} takes no {what} labels: set {cure[what]}"


def is_class(labels: Labels) -> bool:
    """Whether labels are classes, not distributions."""
    return jnp.issubdtype(labels.dtype, jnp.integer)


def accumulated(logits: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """In float32 or wider."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def distributions(
    labels: Labels, logits: Float[Array, "*B C"], smoothing: float = 0.0
) -> Float[Array, "*B C"]:
    """Labels as distributions over the logits' classes, smoothed."""
    classes = logits.shape[-1]
    if is_class(labels):
        labels = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    labels = labels.astype(logits.dtype)
    return labels * (1 - smoothing) + smoothing / classes if smoothing else labels


def class_weights(counts: tuple[int, ...], beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n) of each class, scaled to a mean of 1.

    >>> class_weights((1, 1000), 0.5).round(3).tolist()
    [1.333, 0.667]
    """
    weights = (1 - beta) / -np.expm1(np.asarray(counts, np.float64) * np.log(beta))
    return weights / weights.mean()

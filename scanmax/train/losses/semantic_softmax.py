"""Semantic softmax: a softmax at each level of a tree of classes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.losses.base import Labels, Loss, is_class


class Level(NamedTuple):
    """The classes of one depth.

    Attributes:
      classes: their indices.
      own: for each class of the tree the place, among these, of its ancestor or of itself; behind
        the last where it has none.
      weight: of the level's loss.
    """

    classes: np.ndarray
    own: np.ndarray
    weight: float


@dataclasses.dataclass(frozen=True)
class SemanticSoftmax(Loss):
    """sum_l w_l CE_l: cross-entropies among the classes of each depth l, of the label's ancestors.

    A label says nothing at levels below its own, which then have no gradient. Levels that fewer
    labels reach weigh more: w_l is the number of all classes over that of those at depth l or
    deeper, at most `max_weight`. Smoothing is among a level's classes; a level of one class says
    nothing. Accuracy is among the classes of the label's own depth.

    Attributes:
      parents: of each class the index of the class above it, -1 where none is.
      max_weight: of a level.

    Reference: imagenet21k-p-semantic-softmax
    """

    parents: tuple[int, ...] = ()
    max_weight: float = ranged(20.0, "[1, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parents:
            raise ValueError("it needs parents, of each class the index of the one above, or -1")
        for index, parent in enumerate(self.parents):
            if not isinstance(parent, int) or not -1 <= parent < len(self.parents):
                raise ValueError(f"parents: class {index} has no parent {parent!r} to be under")
            if len(self.ancestors(index)) > len(self.parents):
                raise ValueError(f"parents: class {index} is above itself")

    def ancestors(self, index: int) -> list[int]:
        """From a class upwards, itself first; one too many where they go in a circle."""
        path = []
        while index >= 0 and len(path) <= len(self.parents):
            path.append(index)
            index = self.parents[index]
        return path

    @property
    def depths(self) -> np.ndarray:
        """Of each class."""
        return np.asarray([len(self.ancestors(index)) - 1 for index in range(len(self.parents))])

    @property
    def levels(self) -> list[Level]:
        """Those of more than one class."""
        depths, found = self.depths, []
        for depth in range(depths.max() + 1):
            classes = np.flatnonzero(depths == depth)
            if len(classes) == 1:
                continue
            place = {index: at for at, index in enumerate(classes.tolist())}
            above = [self.ancestors(index)[::-1] for index in range(len(depths))]
            own = [place[path[depth]] if len(path) > depth else len(classes) for path in above]
            weight = min(self.max_weight, len(depths) / int((depths >= depth).sum()))
            found.append(Level(classes, np.asarray(own), weight))
        return found

    def value(
        self, logits: Float[Array, "*B C"], labels: Labels, smoothing: float
    ) -> Float[Array, "*B"]:
        """[*B]"""
        if len(self.parents) != logits.shape[-1]:
            raise UserError(
                f"config.objective.loss_kwargs: parents holds {len(self.parents)} classes, the "
                f"model answers with {logits.shape[-1]}"
            )
        total = jnp.zeros(logits.shape[:-1], logits.dtype)
        for level in self.levels:
            logs = jax.nn.log_softmax(logits[..., level.classes])
            width = len(level.classes)
            if is_class(labels):
                own = jnp.asarray(level.own)[labels]
                share = (own < width).astype(logs.dtype)
                chosen = jnp.take_along_axis(logs, jnp.minimum(own, width - 1)[..., None], axis=-1)
                chosen = share * chosen[..., 0]
            else:
                shares = jnp.zeros((*labels.shape[:-1], width + 1), logs.dtype)
                shares = shares.at[..., level.own].add(labels.astype(logs.dtype))[..., :width]
                share, chosen = shares.sum(-1), jnp.sum(shares * logs, axis=-1)
            smooth = share * jnp.mean(logs, axis=-1)
            total -= level.weight * ((1 - smoothing) * chosen + smoothing * smooth)
        return total

    def is_correct(self, logits: Float[Array, "*B C"], labels: Labels) -> Array:
        """Whether the label's class is the largest of its own depth."""
        own = labels if is_class(labels) else jnp.argmax(labels, axis=-1)
        depths = jnp.asarray(self.depths)
        rivals = jnp.where(depths == depths[own][..., None], logits, -jnp.inf)
        return jnp.argmax(rivals, axis=-1) == own

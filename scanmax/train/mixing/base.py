"""What a mix is given, and what it gives."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.train.objectives.base import Batch


@dataclasses.dataclass(frozen=True)
class Mix:
    """A change of a training batch on the device. A subclass is one file, and one name of MIXES.

    Attributes:
      classes: width of the labels' distributions; the trainer gives the data's.

    What a subclass says of itself:
      guided: whether it needs a guide, a map [B, Y, X] of where the model (or the first teacher, if
        there is one) finds something; it is the channels' norm of the last of its `features`.
    """

    classes: int

    guided: ClassVar[bool] = False

    def __call__(
        self, key: Array, batch: Batch, guide: Float[Array, "B Y X"] | None = None
    ) -> Batch:
        """The batch of the same images' shape, labels as distributions.

        Args:
          key: random numbers of this step, for this mix alone.
          batch: "image" [B, Y, X, C], "label" [B] or [B, classes], "mask" [B].
          guide: the map, where `guided`.

        Returns:
          The batch, with "mix_mask" [B, Y, X] (1 where a pixel is the example's own) and
          "mix_weight" [B] (the share of its own label) beside it.
        """
        raise NotImplementedError

    def distribution(self, labels: Int[Array, " B"] | Float[Array, "B C"]) -> Float[Array, "B C"]:
        """Labels as distributions over the classes."""
        if jnp.issubdtype(labels.dtype, jnp.integer):
            return jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
        return labels

"""Attentive CutMix: what is pasted is where a model finds something."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.train.mixing.base import Mix, cell_shares, partners


@dataclasses.dataclass(frozen=True)
class AttentiveCutMix(Mix):
    """The partner's strongest cells are pasted at their own places.

    The guide is averaged over a grid of cells; the `cells` with the largest values go from the
    partner into the example, and labels are mixed by the share of the pixels.

    Attributes:
      grid: cells along each side.
      cells: how many are pasted.

    Reference: attentive-cutmix
    """

    grid: int = 7
    cells: int = 6

    guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.grid < 1 or not 0 <= self.cells <= self.grid**2:
            raise ValueError(
                f"cells={self.cells} must be from 0 to all of the {self.grid} x {self.grid} cells"
            )

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Float[Array, "B Yg Xg"]
    ) -> Float[Array, "B Y X"]:
        """0 in the partner's strongest cells, 1 elsewhere; nothing is drawn."""
        rows = shape[0]
        cells = jax.image.resize(guide, (rows, self.grid, self.grid), "linear")
        order = jnp.argsort(jnp.argsort(-cells.reshape(rows, -1), axis=1), axis=1)
        taken = partners(order < self.cells).reshape(rows, self.grid, self.grid)
        return cell_shares(taken, shape[1:])

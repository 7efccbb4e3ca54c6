"""Training on some of the patches: Patchout."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Patchout:
    """Leaves patches out of a sequence in training, which becomes as much shorter.

    First whole rows and columns of the grid, then patches anywhere. How many is fixed, which of
    them is drawn: for the whole batch as released, or for each image. Evaluation reads all.

    Attributes:
      rows: how many rows of patches go, of a spectrogram its frequencies.
      columns: how many columns, its times.
      tokens: how many of the other patches; below 1 the share of them.
      per_image: whether each image loses its own.

    Reference: passt-patchout
    """

    rows: int = 0
    columns: int = 0
    tokens: float = 0
    per_image: bool = False

    def __call__(
        self, key: Array, x: Float[Array, "B N D"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "B n D"], tuple[int, int]]:
        """The patches that stay, in their order, and their grid, a line where some are anywhere.

        Args:
          key: random numbers.
          x: the patches, row by row.
          grid: (Y, X), N = Y X.

        Raises:
          UserError: none would stay.
        """
        batch, _, dim = x.shape
        sizes, keys = self.kept(grid), jax.random.split(key, 3)
        rows, columns, tokens = (
            self.drawn(own, batch, whole, kept)
            for own, whole, kept in zip(keys, (*grid, sizes[0] * sizes[1]), sizes)
        )
        places = rows[:, :, None] * grid[1] + columns[:, None, :]
        places = jnp.take_along_axis(places.reshape(len(places), -1), tokens, axis=1)
        places = jnp.broadcast_to(places, (batch, places.shape[1]))
        x = jnp.take_along_axis(x, places[..., None], axis=1)
        is_grid = sizes[2] == sizes[0] * sizes[1]
        return x.reshape(batch, sizes[2], dim), sizes[:2] if is_grid else (1, sizes[2])

    def kept(self, grid: tuple[int, int]) -> tuple[int, int, int]:
        """How many rows, columns and patches stay.

        Raises:
          UserError: none.
        """
        rows, columns = grid[0] - self.rows, grid[1] - self.columns
        whole = max(rows, 0) * max(columns, 0)
        tokens = whole - int(self.tokens * whole if self.tokens < 1 else self.tokens)
        if min(self.rows, self.columns, self.tokens) < 0 or min(rows, columns, tokens) < 1:
            raise UserError(
                f"patchout rows={self.rows}, columns={self.columns} and tokens={self.tokens} must "
                f"be positive or 0, and leave some of the {grid[0]} x {grid[1]} patches"
            )
        return rows, columns, tokens

    def drawn(self, key: Array, batch: int, whole: int, kept: int) -> Int[Array, "b n"]:
        """So many of so many places, in their order, for each image or for all."""
        count = batch if self.per_image else 1
        if kept == whole:
            return jnp.broadcast_to(jnp.arange(whole), (count, whole))
        order = jnp.argsort(jax.random.uniform(key, (count, whole)), axis=1)
        return jnp.sort(order[:, :kept], axis=1)

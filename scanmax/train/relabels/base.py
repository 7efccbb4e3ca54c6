"""What a relabel is given, and gives; how it reads a model's attention."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.train.teachers import Told


class Mixed(NamedTuple):
    """Mixed images as the model saw them.

    Attributes:
      own: share of each token that is the example's own; of tokens that stand before the patches
        that of the whole image.
      prefix: how many stand before them.
      reads_first: whether the head reads the first token; else it reads the mean patch.
      attention: of each block in order, the mean of its heads.
      weight: share of the pixels, and of the label, that is the example's own.
      label: the label, mixed by that.
      logits: the model's answer.
    """

    own: Float[Array, "B T"]
    prefix: int
    reads_first: bool
    attention: tuple[Float[Array, "B T T"], ...]
    weight: Float[Array, " B"]
    label: Float[Array, "B C"]
    logits: Float[Array, "B C"]

    def seen(self) -> Float[Array, " B"]:
        """The share of what the head's token sees, in the last block, that is the example's own."""
        last = self.attention[-1][:, :, self.prefix :]
        row = last[:, 0] if self.reads_first else jnp.mean(last[:, self.prefix :], axis=1)
        kept = jnp.sum(row * self.own[:, self.prefix :], axis=1)
        return kept / jnp.maximum(jnp.sum(row, axis=1), 1e-12)


@dataclasses.dataclass(frozen=True)
class Relabel:
    """A rule for labels of mixed images. A subclass is one file, and one name of RELABELS."""

    def share(self, mixed: Mixed) -> Float[Array, " B"]:
        """The share of its own label that each example keeps."""
        raise NotImplementedError

    def __call__(self, batch: dict[str, Array], student: Told, model: nn.Module) -> Array:
        """The labels [B, C] of a mixed batch; no gradient flows.

        Args:
          batch: as the last mix left it.
          student: the model's answer, with its taps.
          model: the model, whose `patch_size` and `prefix_tokens` say where tokens lie.

        Raises:
          UserError: a model whose attention is not over all patches.
        """
        share = jax.lax.stop_gradient(self.share(self.read(batch, student, model)))
        share = jnp.clip(share, 0, 1)[:, None]
        labels = batch["mix_labels"]
        return share * labels[:, 0] + (1 - share) * labels[:, 1]

    def read(self, batch: dict[str, Array], student: Told, model: nn.Module) -> Mixed:
        """Mask and attention by tokens."""
        found = [value for path, value in student.taps.items() if path.endswith("/attention")]
        patch, prefix = (getattr(model, name, 0) for name in ("patch_size", "prefix_tokens"))
        mask = batch["mix_mask"]
        grid = [side // patch if patch else 0 for side in mask.shape[1:]]
        tokens = prefix + grid[0] * grid[1]
        if not found or any(value.shape[-2:] != (tokens, tokens) for value in found):
            raise UserError(
                "config.objective.kwargs: relabel reads the attention between all patches of one "
                f"grid, which {type(model).__name__} does not give with its mixer and image size"
            )
        attention = (jnp.mean(value.astype(jnp.float32), axis=1) for value in found)
        cells = mask[:, : grid[0] * patch, : grid[1] * patch]
        cells = cells.reshape(-1, grid[0], patch, grid[1], patch).mean((2, 4))
        weight = batch["mix_weight"]
        before = jnp.broadcast_to(weight[:, None], (len(weight), prefix))
        own = jnp.concatenate([before, cells.reshape(len(weight), -1)], axis=1)
        reads_first = bool(prefix) and getattr(model, "pool", "token") == "token"
        logits: Any = student.logits
        logits = logits[0] if isinstance(logits, tuple) else logits
        return Mixed(own, prefix, reads_first, tuple(attention), weight, batch["label"], logits)

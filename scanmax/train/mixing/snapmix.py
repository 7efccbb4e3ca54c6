"""SnapMix: boxes of unlike size are exchanged, and labels follow what of their class they show."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, partners, symmetric_beta
from scanmax.train.objectives.base import merged
from scanmax.train.teachers import Teacher
from scanmax.train.terms.maps import as_map


@dataclasses.dataclass(frozen=True)
class SnapMix(DrawnMix):
    """A box of the partner, resized, covers another box; labels by activation maps of their class.

    The guide is the class activation map of the label, at least 0 and of sum 1 over the pixels: the
    mean gradient of the label's answer times the activation, summed over the channels, which for a
    linear head behind average pooling is the head's row. With a what an image keeps of its own map,
    b the share of the partner's map that its box holds, the label keeps a / (a + b); the published
    weights are a and b themselves, which need not sum to 1.

    Attributes:
      tap: path of the activation, the last map before pooling: "block_11/output".
      alpha: each box is of share 1 - w, with a w of its own from Beta(alpha, alpha).

    Reference: Huang et al., SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained
      Data, 2021.
    """

    tap: str = ""
    alpha: float = ranged(5.0, "(0, inf)")

    guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tap:
            raise ValueError("it needs tap, the path of the last map, such as 'block_11/output'")

    def check_guide(self, model: nn.Module) -> None:
        """Nothing: a tap that is not there is named when it is read."""

    def guide(
        self, model: nn.Module, variables: Any, inputs: Float[Array, "B Y X C"], labels: Array
    ) -> Float[Array, "B Yg Xg"]:
        """The label's class activation map."""
        told = Teacher("", model, reads_taps=True)(variables, inputs)
        seen = told.tap(self.tap)

        def answer(value):
            logits = merged(told.resume(self.tap, value).logits)
            return jnp.sum(logits * self.distribution(labels))

        slopes, places = (as_map(x, self.tap) for x in (jax.grad(answer)(seen), seen))
        if places.shape[1] * places.shape[2] < 2:
            raise UserError(f"config.mix: snapmix reads a map, and {self.tap!r} is none")
        found = jnp.sum(jnp.mean(slopes, axis=(1, 2), keepdims=True) * places, axis=-1)
        return jax.lax.stop_gradient(found)

    def plan(
        self,
        key: Array,
        images: Float[Array, "B Y X C"],
        guide: Float[Array, "B Yg Xg"] | None = None,
    ) -> tuple[Float[Array, "B Y X"], Float[Array, "B Y X C"], Float[Array, " B"]]:
        """Shares that are 0 in a box, what covers it, and the share that a label keeps."""
        first, second, leaves = jax.random.split(key, 3)
        rows, *sides, _ = images.shape
        maps = normalised(jax.image.resize(guide, (rows, *sides), "linear"))
        here, there = (self.boxes(each, rows, sides) for each in (first, second))
        own = self.unless_left_out(leaves, 1 - inside(*here, sides).astype(jnp.float32))
        pasted = jax.vmap(moved)(partners(images), *there, *here)
        kept = jnp.sum(maps * own, axis=(1, 2))
        shown = jnp.sum(partners(maps) * inside(*there, sides), axis=(1, 2))
        # Both are 0 where neither box shows anything of its class: then by the pixels.
        total = kept + shown
        share = jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), own.mean((1, 2)))
        is_whole = jnp.all(own == 1, axis=(1, 2))
        return own, pasted, jnp.where(is_whole, 1, share)

    def boxes(
        self, key: Array, rows: int, sides: list[int]
    ) -> tuple[Int[Array, "B 2"], Int[Array, "B 2"]]:
        """(start, size) of a box of each row, at least one pixel, cut at the border."""
        weights, centres = jax.random.split(key)
        draws = self.draws(rows)
        weight = symmetric_beta(weights, self.alpha, (draws, 1))
        whole = jnp.asarray(sides)
        size = jnp.maximum(1, jnp.floor(whole * jnp.sqrt(1 - weight))).astype(jnp.int32)
        centre = jnp.floor(jax.random.uniform(centres, (draws, 2)) * whole).astype(jnp.int32)
        start = jnp.maximum(centre - size // 2, 0)
        end = jnp.minimum(centre - size // 2 + size, whole)
        return self.spread(start, rows), self.spread(end - start, rows)


def inside(
    start: Int[Array, "B 2"], size: Int[Array, "B 2"], sides: list[int]
) -> Bool[Array, "B Y X"]:
    """Whether a pixel lies in its row's box."""
    along = [
        (jnp.arange(side) >= start[:, axis, None])
        & (jnp.arange(side) < (start + size)[:, axis, None])
        for axis, side in enumerate(sides)
    ]
    return along[0][:, :, None] & along[1][:, None, :]


def moved(
    image: Float[Array, "Y X C"],
    start: Int[Array, "2"],
    size: Int[Array, "2"],
    new_start: Int[Array, "2"],
    new_size: Int[Array, "2"],
) -> Float[Array, "Y X C"]:
    """What covers a box: another box of an image, resized bilinearly; outside it means nothing."""
    for axis in (0, 1):
        places = jnp.arange(image.shape[axis]) - new_start[axis] + 0.5
        source = places * size[axis] / new_size[axis] - 0.5
        source = start[axis] + jnp.clip(source, 0, size[axis] - 1)
        low = jnp.floor(source).astype(jnp.int32)
        high = jnp.minimum(low + 1, image.shape[axis] - 1)
        share = (source - low).astype(image.dtype).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = (1 - share) * jnp.take(image, low, axis) + share * jnp.take(image, high, axis)
    return image


def normalised(maps: Float[Array, "B Y X"]) -> Float[Array, "B Y X"]:
    """Maps from 0 on, of sum 1; a constant one is even."""
    maps = maps - jnp.min(maps, axis=(1, 2), keepdims=True)
    total = jnp.sum(maps, axis=(1, 2), keepdims=True)
    even = 1 / (maps.shape[1] * maps.shape[2])
    return jnp.where(total > 0, maps / jnp.where(total > 0, total, 1), even)

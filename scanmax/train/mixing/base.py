"""What a mix is given, and what it gives; how examples are paired and blended."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.errors import UserError
from scanmax.train.objectives.base import Batch

PER = ("batch", "pair", "element")


@dataclasses.dataclass(frozen=True)
class Mix:
    """A change of a training batch on the device. A subclass is one file, and one name of MIXES.

    Every example is paired with the one at its place from the other end of the batch, as timm
    pairs them, and blended with it, or with what is made of it, pixel by pixel. Rows that the
    batch's mask leaves out stay as they are, and reach no other.

    Attributes:
      classes: width of the labels' distributions; the trainer gives the data's.

    What a subclass says of itself:
      blends: whether labels become distributions; a change of images alone leaves them.
      guided: whether it needs a guide, a map [B, Y, X] of where the first teacher (or the model, if
        there is no teacher) finds something: the channels' norm of the last of its `features`,
        unless the mix says otherwise (`guide`).
    """

    classes: int

    blends: ClassVar[bool] = True
    guided: ClassVar[bool] = False

    def guide(
        self, model: nn.Module, variables: Any, inputs: Float[Array, "B Y X C"], labels: Array
    ) -> Float[Array, "B Yg Xg"]:
        """The map of where a model finds something, without a gradient.

        Args:
          model: who is asked.
          variables: its own.
          inputs: images as it reads them.
          labels: [B] or [B, classes], for a mix whose guide is of one class.
        """
        maps = model.apply(variables, inputs, method="features")[-1]
        return jax.lax.stop_gradient(jnp.linalg.norm(maps.astype(jnp.float32), axis=-1))

    def check_guide(self, model: nn.Module) -> None:
        """Refuses a model that gives no such map.

        Raises:
          UserError: such a model.
        """
        if not hasattr(model, "features"):
            raise UserError(f"config.mix: {type(model).__name__} has no features() to be a guide")

    def own_share(
        self, key: Array, shape: tuple[int, int, int], guide: Float[Array, "B Yg Xg"] | None
    ) -> Float[Array, "B Y X"]:
        """The share of its own image that each pixel of an example keeps.

        Args:
          key: random numbers of this step, for this mix alone.
          shape: (B, Y, X).
          guide: the map, where `guided`.
        """
        raise NotImplementedError

    def plan(
        self,
        key: Array,
        images: Float[Array, "B Y X C"],
        guide: Float[Array, "B Yg Xg"] | None,
    ) -> tuple[Float[Array, "B Y X"], Float[Array, "B Y X C"]]:
        """The share of its own that each pixel keeps, and the images whose pixels it gets.

        These are the partners as they are; a mix that moves or resizes them says how. A third
        entry is the share that a label keeps, where that takes more than `label_share` is given.

        Args:
          key: random numbers of this step, for this mix alone.
          images: the batch's.
          guide: the map, where `guided`.
        """
        return self.own_share(key, images.shape[:3], guide), partners(images)

    def label_share(
        self, own: Float[Array, "B Y X"], guide: Float[Array, "B Yg Xg"] | None
    ) -> Float[Array, " B"]:
        """The share of its own that a label keeps: that of the pixels."""
        return jnp.mean(own, axis=(1, 2))

    def __call__(
        self, key: Array, batch: Batch, guide: Float[Array, "B Yg Xg"] | None = None
    ) -> Batch:
        """The batch of the same images' shape, labels as distributions.

        Args:
          key: random numbers of this step, for this mix alone.
          batch: "image" [B, Y, X, C], "label" [B] or [B, classes], "mask" [B].
          guide: the map, where `guided`.

        Returns:
          The batch, with "mix_mask" [B, Y, X] (the share of its own that each pixel keeps: 1 or 0
          where images are cut), "mix_weight" [B] (that of the label) and "mix_labels"
          [B, 2, classes] (the two that are mixed) beside it.
        """
        images = batch["image"]
        own, pasted, *share = self.plan(key, images, guide)
        counts = batch.get("mask", jnp.ones(images.shape[:1], bool))
        mixes = counts & partners(counts)
        own = jnp.where(mixes[:, None, None], own, 1)
        weight = jnp.where(mixes, share[0] if share else self.label_share(own, guide), 1)
        labels = self.distribution(batch["label"])
        return batch | {
            "image": blend(own[..., None], images, pasted),
            "label": blend(weight[:, None], labels, partners(labels)),
            "mix_mask": own,
            "mix_weight": weight,
            "mix_labels": jnp.stack([labels, partners(labels)], axis=1),
        }

    def distribution(self, labels: Int[Array, " B"] | Float[Array, "B C"]) -> Float[Array, "B C"]:
        """Labels as distributions over the classes."""
        if jnp.issubdtype(labels.dtype, jnp.integer):
            return jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
        return labels


@dataclasses.dataclass(frozen=True)
class DrawnMix(Mix):
    """A mix whose weights are drawn: once for a batch, for each pair, or for each example.

    Attributes:
      per: "batch", "pair" (both of a pair share what is drawn) or "element".
      probability: share of batches, pairs or examples that are mixed.
    """

    per: str = "batch"
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise ValueError(f"per={self.per!r} is not one of {', '.join(PER)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must be in [0, 1]")

    def draws(self, rows: int) -> int:
        """How many times something is drawn for a batch."""
        return {"batch": 1, "pair": (rows + 1) // 2, "element": rows}[self.per]

    def spread(self, drawn: Float[Array, "N ..."], rows: int) -> Float[Array, "B ..."]:
        """What was drawn, at each of the rows that it is meant for."""
        if self.per == "batch":
            return jnp.broadcast_to(drawn, (rows, *drawn.shape[1:]))
        if self.per == "pair":
            return jnp.concatenate([drawn, drawn[: rows // 2][::-1]])
        return drawn

    def unless_left_out(self, key: Array, own: Float[Array, "B Y X"]) -> Float[Array, "B Y X"]:
        """The shares, 1 for what `probability` leaves as it is."""
        rows = own.shape[0]
        mixes = self.spread(jax.random.uniform(key, (self.draws(rows),)) < self.probability, rows)
        return jnp.where(mixes[:, None, None], own, 1)


def symmetric_beta(key: Array, alpha: float, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws from Beta(alpha, alpha) without a loop, in [0, 1].

    jax.random.beta rejects draws of two Gammas one by one on a CPU, and compiles for seconds. This
    is the same law by two uniform numbers: Bailey's polar form of Student's t of 2 alpha degrees
    of freedom (Mathematics of Computation 62, 1994), which t / sqrt(2 alpha + t^2) makes a Beta.

    Args:
      key: random numbers.
      alpha: above 0; 1 is uniform.
      shape: of the result.
    """
    radius, angle = jax.random.uniform(key, (2, *shape))
    # t = sqrt(2 alpha (1 - q) / q) cosine; a small alpha has q underflow, and the draw is 0 or 1.
    q, cosine = (1 - radius) ** (1 / alpha), jnp.cos(2 * jnp.pi * angle)
    length = jnp.sqrt(q + (1 - q) * jnp.square(cosine))
    return 0.5 * (1 + cosine * jnp.sqrt(1 - q) / length)


def partners(rows: Any) -> Any:
    """Each row's partner: the one at its place from the other end."""
    return rows[::-1]


def blend(
    own: Float[Array, "B ..."], rows: Float[Array, "B ..."], other: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """own * row + (1 - own) * other; what keeps nothing of a row is free of it, NaN included."""
    own = own.astype(rows.dtype)
    mixed = jnp.where(own == 0, 0, own * rows) + jnp.where(own == 1, 0, (1 - own) * other)
    return mixed.astype(rows.dtype)


def box_shares(
    weight: Float[Array, " N"], centre: Float[Array, "N 2"], size: tuple[int, int]
) -> Float[Array, "N Y X"]:
    """1 outside and 0 inside of boxes of share 1 - weight around a centre, clipped at the border.

    Args:
      weight: share of the image that a box leaves, before it is clipped.
      centre: in [0, 1), of the height and the width.
      size: (Y, X).
    """
    inside: Bool[Array, "N Y X"] | None = None
    for axis, side in enumerate(size):
        length = jnp.floor(side * jnp.sqrt(1 - weight)).astype(jnp.int32)  # [N]
        middle = jnp.floor(side * centre[:, axis]).astype(jnp.int32)  # [N]
        places = jnp.arange(side)
        start = middle - length // 2
        along = (places >= start[:, None]) & (places < (start + length)[:, None])
        inside = along[:, :, None] if inside is None else inside & along[:, None, :]
    return 1 - inside.astype(jnp.float32)


def cell_shares(taken: Bool[Array, "N Yg Xg"], size: tuple[int, int]) -> Float[Array, "N Y X"]:
    """0 in the cells that are taken, 1 elsewhere, also where cells do not divide the image."""
    rows, columns = (jnp.arange(side) * cells // side for side, cells in zip(size, taken.shape[1:]))
    return 1 - taken[:, rows][:, :, columns].astype(jnp.float32)


def random_cells(
    key: Array, count: Int[Array, " N"], grid: tuple[int, int]
) -> Bool[Array, "N Yg Xg"]:
    """So many cells of a grid, each as likely."""
    cells = grid[0] * grid[1]
    order = jnp.argsort(jax.random.uniform(key, (*count.shape, cells)), axis=1)
    ranks = jnp.argsort(order, axis=1)
    return (ranks < count[:, None]).reshape(*count.shape, *grid)

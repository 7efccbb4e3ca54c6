"""ResizeMix: the whole partner, made smaller, is pasted."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import pair
from scanmax.train.mixing.base import DrawnMix, partners


@dataclasses.dataclass(frozen=True)
class ResizeMix(DrawnMix):
    """The partner, resized to a share of both sides, is pasted at any place, whole.

    What is pasted shows all of the partner, where a box cut from it may show nothing. Labels are
    mixed by the share of the pixels.

    Attributes:
      scales: least and largest share of the sides.

    Reference: Qin et al., ResizeMix: Mixing Data with Preserved Object Information and True Labels,
      2020.
    """

    scales: tuple[float, float] = pair((0.1, 0.8), "(0, 1]")

    def plan(
        self,
        key: Array,
        images: Float[Array, "B Y X C"],
        guide: Float[Array, "B Yg Xg"] | None = None,
    ) -> tuple[Float[Array, "B Y X"], Float[Array, "B Y X C"]]:
        """Shares that are 0 in a box, and partners resized into it."""
        scales, places, leaves = jax.random.split(key, 3)
        rows, *sides, _ = images.shape
        draws = self.draws(rows)
        low, high = self.scales
        scale = jax.random.uniform(scales, (draws, 1), jnp.float32, low, high)
        whole = jnp.asarray(sides)
        size = jnp.maximum(1, jnp.floor(scale * whole)).astype(jnp.int32)  # [N, 2]
        free = jax.random.uniform(places, (draws, 2))
        start = jnp.floor(free * (whole - size + 1)).astype(jnp.int32)
        size, start = self.spread(size, rows), self.spread(start, rows)

        def shrunk(image, size, start):
            return jax.image.scale_and_translate(
                image.astype(jnp.float32), image.shape, (0, 1), size / whole, start * 1.0, "linear"
            )

        inside = [
            (jnp.arange(side) >= start[:, axis, None])
            & (jnp.arange(side) < (start + size)[:, axis, None])
            for axis, side in enumerate(sides)
        ]
        own = 1 - (inside[0][:, :, None] & inside[1][:, None, :]).astype(jnp.float32)
        pasted = jax.vmap(shrunk)(partners(images), size, start).astype(images.dtype)
        return self.unless_left_out(leaves, own), pasted

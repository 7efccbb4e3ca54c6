"""What is left of a training batch when it is sent: normalising, erasing and mixing its images.

The host decodes, crops and changes colours, draws all that is random, and sends bytes beside the
draws: a quarter of what floats would be. The compiled step does the rest on the devices, or numpy
for who reads batches himself; both give the same numbers to rounding.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from scanmax.data.preprocessing import Preprocessing

# Fields of a batch that is sent: rectangles of noise, by the images that they are of, and how rows
# are mixed.
ERASE = {"image": "erase", "local_image": "local_erase"}
BLEND = "blend"
ERASE_NUMBERS, BLEND_NUMBERS = 5, 6


# By identity, so that it can be jitted: arrays have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Finish:
    """A sent batch to what a model trains on; one that is finished stays as it is.

    Attributes:
      prepare: whose normalisation becomes of bytes.
      num_classes: of the labels, where they are mixed.
    """

    prepare: Preprocessing
    num_classes: int

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """On the device, inside a compiled step."""
        return self._finish(batch, jnp)

    def on_host(self, batch: dict[str, Any]) -> dict[str, Any]:
        """By numpy."""
        return self._finish(batch, np)

    def _finish(self, batch: dict[str, Any], xp: Any) -> dict[str, Any]:
        batch = dict(batch)
        for name, boxes in ERASE.items():
            if name in batch and batch[name].dtype == np.uint8:
                batch[name] = self.prepare.normalise(batch[name])
            if boxes in batch:
                batch[name] = erase(batch[name], batch.pop(boxes), xp)
        if BLEND in batch:
            labels = batch["label"][:, None] == xp.arange(self.num_classes)[None]
            images, labels = mix(batch["image"], labels.astype(np.float32), batch.pop(BLEND), xp)
            batch |= {"image": images, "label": labels}
        return batch


def erase(images: Any, boxes: Any, xp: Any) -> Any:
    """Replaces a rectangle of each image by standard normal noise per pixel.

    Args:
      images: [*B, Y, X, C] normalised floats.
      boxes: [*B, 5] int32: top, bottom, left, right and the seed of the noise; of no area where
        nothing is erased.
      xp: numpy or jax.numpy.

    Returns:
      [*B, Y, X, C].

    Reference: deit
    """
    places = xp.arange(math.prod(images.shape[-3:]), dtype=np.uint32).reshape(images.shape[-3:])
    if xp is np:
        images = images.copy()
        for row in zip(*np.nonzero(boxes[..., 1] > boxes[..., 0])):
            top, bottom, left, right = boxes[row][:4]
            part = (slice(top, bottom), slice(left, right))
            images[row][part] = normal(boxes[row][4:], places[part], np)
        return images

    def with_noise(images):
        noise = normal(boxes[..., 4, None, None, None], places, jnp)
        return jnp.where(inside(boxes, images.shape[-3:-1], jnp), noise, images)

    # A branch of its own: else XLA on a CPU makes the noise within what mixes, ten times slower.
    is_any = jnp.any(boxes[..., 1] > boxes[..., 0])
    return jax.lax.cond(is_any, with_noise, lambda images: images, images)


def mix(images: Any, labels: Any, draws: Any, xp: Any) -> tuple[Any, Any]:
    """Mixes rows 2i and 2i + 1: weight * own + (1 - weight) * neighbour, its box inside the box.

    Args:
      images: [B, Y, X, C], B even.
      labels: [B, classes] distributions.
      draws: [B, 6] float32: the images' weight, the labels', and the box (top, bottom, left,
        right), of no area without one.
      xp: numpy or jax.numpy.

    Returns:
      Images and labels of the same shapes.
    """
    kept, kept_label = draws[:, 0, None, None, None], draws[:, 1, None]
    others = neighbours(images)
    mixed = kept * images + (1 - kept) * others
    mixed = xp.where(inside(draws[:, 2:], images.shape[1:3], xp), others, mixed)
    return mixed, kept_label * labels + (1 - kept_label) * neighbours(labels)


def neighbours(rows: Any) -> Any:
    """Swaps rows 2i and 2i + 1."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)


def inside(boxes: Any, size: tuple[int, int], xp: Any) -> Any:
    """[*B, Y, X, 1] which pixels lie in a box; boxes are [*B, 4 or more], as `mix` has them."""
    top, bottom, left, right = (boxes[..., i, None, None, None] for i in range(4))
    y, x = xp.arange(size[0])[:, None, None], xp.arange(size[1])[None, :, None]
    return (top <= y) & (y < bottom) & (left <= x) & (x < right)


def normal(seeds: Any, places: Any, xp: Any) -> Any:
    """Standard normal numbers, each a function of its seed and its place alone.

    jax.random has none that numpy could make, nor the same by every generator that a run may choose
    (`jax_default_prng_impl`); this is a hash of 32 bits and the inverse of the distribution.

    Args:
      seeds: integers that broadcast against places.
      places: uint32.
      xp: numpy or jax.numpy.

    Returns:
      float32.
    """
    seeds = xp.asarray(seeds).astype(np.uint32)
    # The second is that of the seed with all bits turned: numpy warns of a lone sum that wraps.
    first, second = scramble(seeds), scramble(~seeds)
    bits = scramble(scramble(places ^ first) + second)
    # Odd numbers below 2**24, on both sides of zero: exact, and never the ends -1 and 1.
    odd = (bits >> 9).astype(np.int32) * 2 - (2**23 - 1)
    uniform = odd.astype(np.float32) * np.float32(2**-23)
    inverse = scipy.special.erfinv if xp is np else jax.scipy.special.erfinv
    return np.float32(math.sqrt(2)) * inverse(uniform)


def scramble(bits: Any) -> Any:
    """A bijection of uint32 in which every bit hangs on every other: two rounds of xorshift."""
    bits = bits ^ (bits >> 16)
    bits = bits * np.uint32(0x7FEB352D)
    bits = bits ^ (bits >> 15)
    bits = bits * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)

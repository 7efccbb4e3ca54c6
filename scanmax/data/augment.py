"""Random changes of images and labels: pure functions of (rng, images, ...), numpy on the host."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from scanmax.data import policies, randaugment
from scanmax.data.config import AugmentConfig

ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
RESIZE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resizes a part of an image, averaging where it shrinks.

    Args:
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      box: (left, top, right, bottom) of the part; None is the whole.
      method: PIL's interpolation.

    Returns:
      [height, width, C] uint8.
    """
    if box is None and image.shape[:2] == tuple(size):
        return image
    resized = to_pil(image).resize((size[1], size[0]), method, box=box)
    return from_pil(resized, image.shape[-1])


def to_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(image: Image.Image, channels: int) -> np.ndarray:
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], channels)


def central_crop(
    image: np.ndarray,
    size: tuple[int, int],
    keep: float = 1.0,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resizes so that `size` is the share `keep` of the shorter side, and crops the centre.

    Args:
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      keep: share of each side that is kept.
      method: PIL's interpolation.

    Returns:
      [height, width, C] uint8.
    """
    height, width = image.shape[:2]
    if (height, width) == tuple(size) and keep == 1.0:
        return image
    scale = keep * min(height / size[0], width / size[1])
    crop_height, crop_width = scale * size[0], scale * size[1]
    top, left = (height - crop_height) / 2, (width - crop_width) / 2
    return resize(image, size, (left, top, left + crop_width, top + crop_height), method)


def random_resized_crop(
    rng: np.random.Generator,
    image: np.ndarray,
    size: tuple[int, int],
    *,
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    methods: Sequence[Image.Resampling] = randaugment.METHODS,
) -> np.ndarray:
    """Crops a rectangle of random area and aspect and resizes it.

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      area: smallest and largest share of the image's area.
      aspect: smallest and largest width over height, drawn uniformly in the logarithm.
      methods: PIL's interpolations, of which one is drawn: the recipe's is itself random.

    Returns:
      [height, width, C] uint8.

    Reference: deit
    """
    height, width = image.shape[:2]
    method = methods[rng.integers(len(methods))]
    for _ in range(10):
        target = rng.uniform(area[0], area[1]) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        crop_width = round(math.sqrt(target * ratio))
        crop_height = round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            break
    else:
        # No draw fits an extreme image: its centre, at the nearest aspect allowed.
        ratio = min(max(width / height, aspect[0]), aspect[1])
        crop_width = min(width, round(height * ratio))
        crop_height = min(height, round(width / ratio))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return resize(image, size, (left, top, left + crop_width, top + crop_height), method)


def random_affine(
    rng: np.random.Generator,
    image: np.ndarray,
    *,
    translate: float = 0.0,
    rotate: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
) -> np.ndarray:
    """Moves a small image about its centre; what comes into view is zero.

    With a translation alone the shift is whole pixels: a random crop of the padded image.

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8.
      translate: largest shift along each axis, in pixels.
      rotate: largest rotation, in degrees.
      zoom: largest relative change of size.
      shear: largest shear along the x axis, as a slope.

    Returns:
      [Y, X, C] uint8.
    """
    if not (rotate or zoom or shear):
        if not translate:
            return image
        limit = int(translate)
        return shift(image, *(int(step) for step in rng.integers(-limit, limit + 1, 2)))
    # The matrix takes places of the result to places of the image.
    angle = math.radians(rng.uniform(-rotate, rotate))
    size = (1 + zoom) ** rng.uniform(-1, 1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    slant = np.array([[1.0, 0.0], [rng.uniform(-shear, shear), 1.0]])
    matrix = turn @ slant / size
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre + rng.uniform(-translate, translate, 2) - matrix @ centre
    moved = [
        ndimage.affine_transform(image[..., channel], matrix, offset, order=1, mode="constant")
        for channel in range(image.shape[-1])
    ]
    return np.stack(moved, axis=-1)


def shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shifts an image by whole pixels, filling with zeros."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    ys, xs = max(0, height - abs(down)), max(0, width - abs(right))
    out_y, out_x, in_y, in_x = max(0, down), max(0, right), max(0, -down), max(0, -right)
    out[out_y : out_y + ys, out_x : out_x + xs] = image[in_y : in_y + ys, in_x : in_x + xs]
    return out


def apply_policy(
    rng: np.random.Generator,
    image: np.ndarray,
    policy: str,
    fill: tuple[int, ...],
    methods: Sequence[Image.Resampling] = randaugment.METHODS,
) -> np.ndarray:
    """Applies a policy such as "rand-m9-mstd0.5-inc1", "original", "augmix-m5" or "ta_wide".

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8, one or three channels.
      policy: in timm's notation.
      fill: colour, three numbers in 0..255, of what a movement uncovers.
      methods: PIL's interpolations, of which each movement draws one.

    Returns:
      [Y, X, C] uint8.

    Raises:
      UserError: no such policy.
    """
    channels = image.shape[-1]
    colour = Image.fromarray(image if channels == 3 else np.repeat(image, 3, axis=-1))
    changed = np.asarray(parsed_policy(policy)(rng, colour, fill, methods))
    return changed[..., :channels]


@functools.cache
def parsed_policy(policy: str) -> policies.AnyPolicy:
    """A policy by its notation; UserError where there is no such."""
    return (randaugment if policy.startswith("rand") else policies).parse(policy)


def random_erasing(rng: np.random.Generator, image: np.ndarray, probability: float) -> np.ndarray:
    """Replaces a random rectangle by standard normal noise per pixel.

    Args:
      rng: source of randomness.
      image: [Y, X, C] normalised floats.
      probability: share of images changed.

    Returns:
      [Y, X, C], a copy where something was erased.

    Reference: deit
    """
    if rng.random() >= probability:
        return image
    height, width, channels = image.shape
    for _ in range(10):
        area = rng.uniform(*ERASE_AREA) * height * width
        aspect = math.exp(rng.uniform(*np.log(ERASE_ASPECT)))
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            image = image.copy()
            noise = rng.standard_normal((tall, wide, channels), dtype=np.float32)
            image[top : top + tall, left : left + wide] = noise
            return image
    return image


def mix(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes each row with its neighbour, by mixup or by CutMix, with one weight for the batch.

    Args:
      rng: source of randomness.
      images: [B, Y, X, C], B even.
      labels: [B, classes] distributions.
      config: mixup, cutmix, mix_probability and cutmix_probability count.

    Returns:
      Images and labels of the same shapes.
    """
    cut = bool(config.cutmix) and (not config.mixup or rng.random() < config.cutmix_probability)
    alpha = config.cutmix if cut else config.mixup
    weight = rng.beta(alpha, alpha)
    box = random_box(rng, images.shape[1:3], weight)
    if rng.random() >= config.mix_probability:
        return images, labels
    return cutmix(images, labels, box) if cut else mixup(images, labels, weight)


def mixup(images: np.ndarray, labels: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Blends rows 2i and 2i + 1: weight * own + (1 - weight) * neighbour, labels alike."""
    weight = np.float32(weight)
    return tuple(weight * own + (1 - weight) * neighbours(own) for own in (images, labels))


def cutmix(
    images: np.ndarray, labels: np.ndarray, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pastes the neighbour's box (top, bottom, left, right); labels by the exact share of area."""
    top, bottom, left, right = box
    mixed = images.copy()
    mixed[:, top:bottom, left:right] = neighbours(images)[:, top:bottom, left:right]
    kept = np.float32(1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2]))
    return mixed, kept * labels + (1 - kept) * neighbours(labels)


def neighbours(rows: np.ndarray) -> np.ndarray:
    """Swaps rows 2i and 2i + 1."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)


def random_box(
    rng: np.random.Generator, size: tuple[int, int], weight: float
) -> tuple[int, int, int, int]:
    """Draws a box of share 1 - weight around a uniform centre, clipped at the border."""
    bounds = []
    for side in size:
        length = int(side * math.sqrt(1 - weight))
        centre = int(rng.integers(side))
        bounds += [max(0, centre - length // 2), min(side, centre + (length + 1) // 2)]
    return tuple(bounds)

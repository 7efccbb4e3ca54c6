"""Random changes of images: pure functions of (rng, image, ...), numpy and PIL on the host.

Of what is left to the device, erasing and mixing, only the draws are here.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from scanmax.data import policies, randaugment
from scanmax.data.config import AugmentConfig
from scanmax.data.decoding import EncodedPicture, Picture, as_pil
from scanmax.errors import UserError

ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
Pixels = np.ndarray | Picture
RESIZE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def resize(
    image: Pixels,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Pixels:
    """Resizes a part of an image, averaging where it shrinks.

    Args:
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      box: (left, top, right, bottom) of the part; None is the whole.
      method: PIL's interpolation.

    Returns:
      [height, width, C] uint8, a Picture of a Picture.
    """
    if box is None and image.shape[:2] == tuple(size):
        return image
    if isinstance(image, EncodedPicture) and not image.is_decoded:
        image, box = reduced(image, size, box)
    resized = Picture(as_pil(image).resize((size[1], size[0]), method, box=box))
    return resized if isinstance(image, Picture) else np.asarray(resized)


def reduced(
    image: EncodedPicture, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> tuple[Picture, tuple[float, float, float, float]]:
    """Decodes what a resize to `size` needs, and says where the part lies there.

    A JPEG is decoded at the largest of 1, 1/2, 1/4 and 1/8 at which the part is no smaller than
    `size`; the decoder then averages what the resize would have.

    Raises:
      UserError: the file cannot be read.
    """
    left, top, right, bottom = box or (0, 0, *image.shape[1::-1])
    room = min((bottom - top) / size[0], (right - left) / size[1])
    factor = next((factor for factor in (8, 4, 2) if factor <= room), 1)
    try:
        pil = image.reduced(factor)
    except ValueError as error:
        raise UserError(str(error)) from error
    # Other formats have no such scales, and sides need not be multiples of the factor.
    across, down = (round(whole / side) for whole, side in zip(image.shape[1::-1], pil.size))
    scaled = (left / across, top / down, right / across, bottom / down)
    ends = (*pil.size, *pil.size)
    return Picture(pil), tuple(min(value, end) for value, end in zip(scaled, ends))


def mirror(image: Pixels) -> Pixels:
    """The image with left and right swapped."""
    if isinstance(image, Picture):
        return Picture(image.pil.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return image[:, ::-1]


def central_crop(
    image: Pixels,
    size: tuple[int, int],
    keep: float = 1.0,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Pixels:
    """Resizes so that `size` is the share `keep` of the shorter side, and crops the centre.

    Args:
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      keep: share of each side that is kept.
      method: PIL's interpolation.

    Returns:
      [height, width, C] uint8, a Picture of a Picture.
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
    image: Pixels,
    size: tuple[int, int],
    *,
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    methods: Sequence[Image.Resampling] = randaugment.METHODS,
) -> Pixels:
    """Crops a rectangle of random area and aspect and resizes it.

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      area: smallest and largest share of the image's area.
      aspect: smallest and largest width over height, drawn uniformly in the logarithm.
      methods: PIL's interpolations, of which one is drawn: the recipe's is itself random.

    Returns:
      [height, width, C] uint8, a Picture of a Picture.

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


def crop_mix(
    rng: np.random.Generator,
    image: Pixels,
    size: tuple[int, int],
    *,
    crops: int = 2,
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    methods: Sequence[Image.Resampling] = randaugment.METHODS,
    by: str = "mixup",
    alpha: float = 0.4,
    permute: bool = False,
) -> np.ndarray:
    """Mixes random crops of one image, each of another scale, into one: CropMix.

    The areas of the crops are drawn from as many equal parts of `area`. In any order, each is mixed
    into what those before it came to.

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8.
      size: (height, width) of the result.
      crops: how many; one is `random_resized_crop`.
      area, aspect, methods: as there.
      by: "mixup", a mean of weight w from Beta(alpha / crops, alpha / crops), or "cutmix", a box of
        a uniform share in which one of the two, either, shows the other.
      alpha: of mixup.
      permute: the channels of the one that counts less, or is in the box, are in any order.

    Returns:
      [height, width, C] uint8, rounded once.

    The released code shares all of this, and keeps what is mixed unrounded.

    Reference: Han et al., CropMix: Sampling a Rich Input Distribution via Multi-Scale Cropping,
      2022.
    """
    bounds = np.linspace(area[0], area[1], crops + 1)
    views = [
        np.asarray(
            random_resized_crop(
                rng, image, size, area=bounds[part : part + 2], aspect=aspect, methods=methods
            )
        )
        for part in rng.permutation(crops)
    ]
    mixed = views[0].astype(np.float32)
    for view in views[1:]:
        below, above = mixed, view.astype(np.float32)
        if by == "mixup":
            own = np.float32(rng.beta(alpha / crops, alpha / crops))
            # The one that counts more lies below.
            if own < 0.5:
                below, above, own = above, below, 1 - own
        elif rng.random() < 0.5:
            below, above = above, below
        if permute:
            above = above[..., rng.permutation(above.shape[-1])]
        if by == "mixup":
            mixed = own * below + (1 - own) * above
        else:
            top, bottom, left, right = random_box(rng, size, rng.random())
            mixed = below.copy()
            mixed[top:bottom, left:right] = above[top:bottom, left:right]
    return np.round(mixed).astype(np.uint8)


def by_halves(
    rng: np.random.Generator,
    image: Pixels,
    change: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Cuts an image in two, changes each half by itself and joins them: YOCO.

    The cut is along the height or the width, each as likely; of an odd side the second half is the
    larger. An image with a side of one pixel is cut along the other, one pixel not at all.

    Args:
      rng: source of randomness, of `change` too.
      image: [Y, X, C] uint8.
      change: gives an image of the same shape.

    Returns:
      [Y, X, C], what the halves became.

    Reference: Han et al., You Only Cut Once: Boosting Data Augmentation with a Single Cut, 2022.
    """
    image = np.asarray(image)
    axes = [axis for axis in (0, 1) if image.shape[axis] > 1]
    if not axes:
        return change(rng, image)
    axis = axes[rng.integers(len(axes))]
    halves = np.split(image, [image.shape[axis] // 2], axis)
    return np.concatenate([change(rng, half) for half in halves], axis)


def random_affine(
    rng: np.random.Generator,
    image: Pixels,
    *,
    translate: float = 0.0,
    rotate: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
) -> Pixels:
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
        return shift(np.asarray(image), *(int(step) for step in rng.integers(-limit, limit + 1, 2)))
    image = np.asarray(image)
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
    image: Pixels,
    policy: str,
    fill: tuple[int, ...],
    methods: Sequence[Image.Resampling] = randaugment.METHODS,
) -> Pixels:
    """Applies a policy such as "rand-m9-mstd0.5-inc1", "original", "augmix-m5" or "ta_wide".

    Args:
      rng: source of randomness.
      image: [Y, X, C] uint8, one or three channels.
      policy: in timm's notation.
      fill: colour, three numbers in 0..255, of what a movement uncovers.
      methods: PIL's interpolations, of which each movement draws one.

    Returns:
      [Y, X, C] uint8, a Picture of a coloured Picture.

    Raises:
      UserError: no such policy.
    """
    channels = image.shape[-1]
    if channels != 3:
        image = np.repeat(image, 3, axis=-1)
    changed = Picture(parsed_policy(policy)(rng, as_pil(image), fill, methods))
    return changed if isinstance(image, Picture) else np.asarray(changed)[..., :channels]


@functools.cache
def parsed_policy(policy: str) -> policies.AnyPolicy:
    """A policy by its notation; UserError where there is no such."""
    return (randaugment if policy.startswith("rand") else policies).parse(policy)


def random_erasing(
    rng: np.random.Generator, size: tuple[int, int], probability: float
) -> np.ndarray:
    """Draws the rectangle that noise replaces, and the seed of the noise.

    Args:
      rng: source of randomness.
      size: height and width of the image.
      probability: share of images changed.

    Returns:
      [5] int32, `finishing.erase`'s; zeros where nothing is erased.

    Reference: deit
    """
    if rng.random() < probability:
        height, width = size
        for _ in range(10):
            area = rng.uniform(*ERASE_AREA) * height * width
            aspect = math.exp(rng.uniform(*np.log(ERASE_ASPECT)))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < tall < height and 0 < wide < width:
                top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
                seed = rng.integers(2**31)
                return np.asarray([top, top + tall, left, left + wide, seed], np.int32)
    return np.zeros(5, np.int32)


def mix(rng: np.random.Generator, size: tuple[int, int], config: AugmentConfig) -> np.ndarray:
    """Draws how each row is mixed with its neighbour: mixup or CutMix, one weight for the batch.

    Args:
      rng: source of randomness.
      size: height and width of the images.
      config: mixup, cutmix, mix_probability and cutmix_probability count.

    Returns:
      [6] float32, `finishing.mix`'s: the images' own weight outside of the box, the labels', and
      the box of the neighbour (top, bottom, left, right).
    """
    cut = bool(config.cutmix) and (not config.mixup or rng.random() < config.cutmix_probability)
    alpha = config.cutmix if cut else config.mixup
    weight = rng.beta(alpha, alpha)
    top, bottom, left, right = random_box(rng, size, weight)
    if rng.random() >= config.mix_probability:
        return np.asarray([1, 1, 0, 0, 0, 0], np.float32)
    if not cut:
        return np.asarray([weight, weight, 0, 0, 0, 0], np.float32)
    # Labels go by the exact share of the area.
    kept = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    return np.asarray([1, kept, top, bottom, left, right], np.float32)


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

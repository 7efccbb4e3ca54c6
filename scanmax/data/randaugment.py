"""RandAugment on PIL images: the operations, how strong each is at a level, and the policy.

Levels run from 0 to 10. In the "increasing" set every operation is stronger at a higher level; in
the plain set posterize, solarize and the enhancements keep the scales they were published with.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from scanmax.errors import UserError

MAX_LEVEL = 10.0
# The share of a side that the highest level translates by.
TRANSLATE = 0.45
# What a movement interpolates by where nothing is said: one of both, drawn for each.
METHODS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
Operation = Callable[..., Image.Image]


@dataclasses.dataclass(frozen=True)
class Canvas:
    """How a movement draws: the colour it uncovers and its interpolation."""

    fill: tuple[int, ...]
    method: Image.Resampling

    def affine(self, image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, resample=self.method, fillcolor=self.fill
        )


def _rotate(image, degrees, canvas):
    return image.rotate(degrees, resample=canvas.method, fillcolor=canvas.fill)


def _shear_x(image, slope, canvas):
    return canvas.affine(image, (1, slope, 0, 0, 1, 0))


def _shear_y(image, slope, canvas):
    return canvas.affine(image, (1, 0, 0, slope, 1, 0))


def _translate_x(image, share, canvas):
    return canvas.affine(image, (1, 0, share * image.size[0], 0, 1, 0))


def _translate_y(image, share, canvas):
    return canvas.affine(image, (1, 0, 0, 0, 1, share * image.size[1]))


def _solarize_add(image, amount, canvas):
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _posterize(image, bits, canvas):
    # PIL's own refuses no bits at all, which the highest level asks for: black.
    mask = 256 - 2 ** (8 - min(8, int(bits)))
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def _enhance(enhancer) -> Operation:
    return lambda image, factor, canvas: enhancer(image).enhance(factor)


OPERATIONS: Mapping[str, Operation] = {
    "autocontrast": lambda image, _, canvas: ImageOps.autocontrast(image),
    "equalize": lambda image, _, canvas: ImageOps.equalize(image),
    "invert": lambda image, _, canvas: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": lambda image, threshold, canvas: ImageOps.solarize(image, int(threshold)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
_SIGNED = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3}
_TRANSLATIONS = ("translate_x", "translate_y")
_ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")


def argument(
    name: str, level: float, sign: float, increasing: bool = True, translate: float = TRANSLATE
) -> Any:
    """The operation's argument at a level.

    Args:
      name: of the operation.
      level: strength in 0..10.
      sign: 1 or -1, the direction of those that have one.
      increasing: whether a higher level is always a stronger change.
      translate: share of a side that the highest level translates by.

    Returns:
      Degrees, slope, share of the side, bits, threshold, amount or factor; None for those without.
    """
    share = level / MAX_LEVEL
    if name in _TRANSLATIONS:
        return sign * share * translate
    if name in _SIGNED:
        return sign * share * _SIGNED[name]
    if name in _ENHANCEMENTS:
        return max(0.1, 1 + sign * 0.9 * share) if increasing else 0.1 + 1.8 * share
    if name == "posterize":
        return 4 - int(4 * share) if increasing else int(4 * share)
    if name == "solarize":
        threshold = min(256, int(256 * share))
        return 256 - threshold if increasing else threshold
    if name == "solarize_add":
        return min(128, int(110 * share))
    return None


@dataclasses.dataclass(frozen=True)
class Policy:
    """Draws `layers` operations with replacement and applies each with a probability.

    Reference: deit
    """

    magnitude: float = 10.0
    spread: float = 0.0
    layers: int = 2
    probability: float = 0.5
    increasing: bool = False
    max_level: float = MAX_LEVEL

    def __call__(
        self,
        rng: np.random.Generator,
        image: Image.Image,
        fill: tuple[int, ...],
        methods: Sequence[Image.Resampling] = METHODS,
    ) -> Image.Image:
        names = list(OPERATIONS)
        for _ in range(self.layers):
            name = names[rng.integers(len(names))]
            applies = rng.random() < self.probability
            level = float(np.clip(rng.normal(self.magnitude, self.spread), 0, self.max_level))
            sign = 1.0 if rng.random() < 0.5 else -1.0
            method = methods[rng.integers(len(methods))]
            if applies:
                value = argument(name, level, sign, self.increasing)
                image = OPERATIONS[name](image, value, Canvas(fill, method))
        return image


_SECTIONS = {
    "m": "magnitude", "mstd": "spread", "n": "layers", "p": "probability", "inc": "increasing",
    "mmax": "max_level",
}  # fmt: skip


def parse(text: str) -> Policy:
    """Reads timm's notation: "rand", then sections such as m9, mstd0.5, inc1, n2, p0.5, mmax15.

    Raises:
      UserError: another policy, or a section that is unknown.

    >>> parse("rand-m9-mstd0.5-inc1").magnitude
    9.0
    """
    name, *sections = text.split("-")
    if name != "rand":
        raise UserError(
            f"augmentation policy {text!r}: config.data.augment.randaugment takes 'rand-...', "
            "auto_augment the others"
        )
    kinds = {"layers": int, "increasing": bool}
    numbers = read_sections(text, sections, _SECTIONS)
    return Policy(**{field: kinds.get(field, float)(value) for field, value in numbers.items()})


def read_sections(text: str, sections: Sequence[str], known: Mapping[str, str]) -> dict[str, float]:
    """Reads sections such as m9 and mstd0.5.

    Args:
      text: the whole policy, as messages show it.
      sections: those behind its name.
      known: letters of a section -> the field that they set.

    Returns:
      Field -> number.

    Raises:
      UserError: a section that is unknown or has no number.
    """
    values = {}
    for section in sections:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
        if match is None or match[1] not in known:
            raise UserError(
                f"augmentation policy {text!r}: unknown section {section!r}; "
                f"known: {', '.join(known) or 'none'}" + (", each with a number" if known else "")
            )
        values[known[match[1]]] = float(match[2])
    return values

"""Policies of PIL images beside RandAugment: AutoAugment, AugMix and TrivialAugment.

Operations and their strengths are those of `randaugment`, with a few variants of their own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from scanmax.data.randaugment import MAX_LEVEL, METHODS, OPERATIONS, Canvas, argument, read_sections
from scanmax.errors import UserError, suggest

AnyPolicy = Callable[..., Image.Image]
# Radii of the blur whose strength is drawn anew each time.
BLUR_RADIUS = (0.1, 2.0)
AUGMIX_TRANSLATE = 0.3
AUGMIX_NAMES = (
    "autocontrast", "color", "contrast", "brightness", "sharpness", "equalize", "rotate",
    "posterize", "solarize", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation at a level, applied with a probability."""

    name: str
    probability: float
    level: float


def _table(text: str) -> tuple[tuple[Step, ...], ...]:
    """Reads a line for each choice: "name probability level, name probability level"."""
    rows = (
        [word.split() for word in line.split(",")] for line in text.strip().splitlines()
    )  # fmt: skip
    return tuple(tuple(Step(name, float(p), float(m)) for name, p, m in row) for row in rows)


# The policy that was searched for on ImageNet, as published.
ORIGINAL = _table("""
posterize_original 0.4 8, rotate 0.6 9
solarize 0.6 5, autocontrast 0.6 5
equalize 0.8 8, equalize 0.6 3
posterize_original 0.6 7, posterize_original 0.6 6
equalize 0.4 7, solarize 0.2 4
equalize 0.4 4, rotate 0.8 8
solarize 0.6 3, equalize 0.6 7
posterize_original 0.8 5, equalize 1.0 2
rotate 0.2 3, solarize 0.6 8
equalize 0.6 8, posterize_original 0.4 6
rotate 0.8 8, color 0.4 0
rotate 0.4 9, equalize 0.6 2
equalize 0.0 7, equalize 0.8 8
invert 0.6 4, equalize 1.0 8
color 0.6 4, contrast 1.0 8
rotate 0.8 8, color 1.0 2
color 0.8 8, solarize 0.8 7
sharpness 0.4 7, invert 0.6 8
shear_x 0.6 5, equalize 1.0 9
color 0.4 0, equalize 0.6 3
equalize 0.4 7, solarize 0.2 4
solarize 0.6 5, autocontrast 0.6 5
invert 0.6 4, equalize 1.0 8
color 0.6 4, contrast 1.0 8
equalize 0.8 8, equalize 0.6 3
""")
# EfficientNet's.
V0 = _table("""
equalize 0.8 1, shear_y 0.8 4
color 0.4 9, equalize 0.6 3
color 0.4 1, rotate 0.6 8
solarize 0.8 3, equalize 0.4 7
solarize 0.4 2, solarize 0.6 2
color 0.2 0, equalize 0.8 8
equalize 0.4 8, solarize_add 0.8 3
shear_x 0.2 9, rotate 0.6 8
color 0.6 1, equalize 1.0 2
invert 0.4 9, rotate 0.6 0
equalize 1.0 9, shear_y 0.6 3
color 0.4 7, equalize 0.6 0
posterize 0.4 6, autocontrast 0.4 7
solarize 0.6 8, color 0.6 9
solarize 0.2 4, rotate 0.8 9
rotate 1.0 7, translate_y 0.8 9
shear_x 0.0 0, solarize 0.8 4
shear_y 0.8 0, color 0.6 4
color 1.0 0, rotate 0.6 2
equalize 0.8 4, equalize 0.0 8
equalize 1.0 4, autocontrast 0.6 2
shear_y 0.4 7, solarize_add 0.6 7
posterize 0.8 2, solarize 0.6 10
solarize 0.6 8, equalize 0.6 1
color 0.8 6, rotate 0.4 5
""")
# DeiT III's three: one of solarisation, grey and a blur.
THREE = _table("""
solarize 1.0 5
desaturate 1.0 10
gaussian_blur_rand 1.0 10
""")


def _research(table: tuple[tuple[Step, ...], ...]) -> tuple[tuple[Step, ...], ...]:
    """A table whose posterisation discards more bits at a higher level."""
    return tuple(
        tuple(
            dataclasses.replace(step, name="posterize_increasing")
            if step.name.startswith("posterize")
            else step
            for step in row
        )
        for row in table
    )


TABLES = {
    "original": ORIGINAL,
    "originalr": _research(ORIGINAL),
    "v0": V0,
    "v0r": _research(V0),
    "3a": THREE,
}


def apply(
    rng: np.random.Generator,
    image: Image.Image,
    name: str,
    level: float,
    canvas: Canvas,
    **options: Any,
) -> Image.Image:
    """Applies an operation at a level.

    Args:
      rng: source of randomness: of directions, and of the blur that draws its radius.
      image: in colour.
      name: of `randaugment.OPERATIONS`, or of a variant that a table names.
      level: strength in 0..10.
      canvas: how movements draw.
      **options: of `randaugment.argument`.
    """
    share = level / MAX_LEVEL
    if name == "desaturate":
        # From half of the colours at no level to none at the highest.
        return ImageEnhance.Color(image).enhance(1 - (0.5 + 0.5 * share))
    if name == "gaussian_blur_rand":
        low, high = BLUR_RADIUS
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(low, high * share)))
    if name == "posterize_original":
        return OPERATIONS["posterize"](image, 4 + int(4 * share), canvas)
    increasing = {"increasing": True} if name == "posterize_increasing" else {}
    name = name.removesuffix("_increasing")
    sign = 1.0 if rng.random() < 0.5 else -1.0
    value = argument(name, level, sign, **{**options, **increasing})
    return OPERATIONS[name](image, value, canvas)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Draws one row of a table and applies its steps, each with its probability.

    `spread` is the deviation of the normal distribution that levels are drawn from.
    """

    table: tuple[tuple[Step, ...], ...]
    spread: float = 0.0

    def __call__(
        self,
        rng: np.random.Generator,
        image: Image.Image,
        fill: tuple[int, ...],
        methods: Sequence[Image.Resampling] = METHODS,
    ) -> Image.Image:
        for step in self.table[rng.integers(len(self.table))]:
            if rng.random() < step.probability:
                canvas = Canvas(fill, methods[rng.integers(len(methods))])
                level = float(np.clip(rng.normal(step.level, self.spread), 0, MAX_LEVEL))
                image = apply(rng, image, step.name, level, canvas, increasing=False)
        return image


@dataclasses.dataclass(frozen=True)
class AugMix:
    """Mixes chains of operations with the image itself.

    Attributes:
      magnitude: largest level.
      width: how many chains.
      depth: operations of a chain; below 1 from one to three.
      alpha: of the Dirichlet and Beta distributions that weigh.
      spread: deviation of the levels about `magnitude`; None draws them uniformly below it.
    """

    magnitude: float = 3.0
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    spread: float | None = None

    def __call__(
        self,
        rng: np.random.Generator,
        image: Image.Image,
        fill: tuple[int, ...],
        methods: Sequence[Image.Resampling] = METHODS,
    ) -> Image.Image:
        weights = rng.dirichlet([self.alpha] * self.width)
        share = rng.beta(self.alpha, self.alpha)
        chains = []
        for _ in range(self.width):
            changed = image
            for _ in range(self.depth if self.depth > 0 else rng.integers(1, 4)):
                name = AUGMIX_NAMES[rng.integers(len(AUGMIX_NAMES))]
                canvas = Canvas(fill, methods[rng.integers(len(methods))])
                level = self.level(rng)
                changed = apply(
                    rng, changed, name, level, canvas, increasing=True, translate=AUGMIX_TRANSLATE
                )
            chains.append(changed)
        return mix_chains(image, chains, weights, share)

    def level(self, rng: np.random.Generator) -> float:
        if self.spread is None:
            return rng.uniform(0, self.magnitude)
        return float(np.clip(rng.normal(self.magnitude, self.spread), 0, MAX_LEVEL))


def mix_chains(
    image: Image.Image, chains: Sequence[Image.Image], weights: np.ndarray, share: float
) -> Image.Image:
    """(1 - share) * image + share * the weighted sum of the chains."""
    mixed = np.zeros((*image.size[::-1], 3), np.float32)
    for weight, chain in zip(np.float32(weights), chains):
        mixed += weight * np.asarray(chain, np.float32)
    whole = Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
    return Image.blend(image, whole, float(np.float32(share)))


def _bins(low: float, high: float) -> np.ndarray:
    """31 strengths from one to the other."""
    return np.linspace(low, high, 31, dtype=np.float32)


# Name -> (strengths, whether either direction is drawn).
WIDE: Mapping[str, tuple[np.ndarray, bool]] = {
    "identity": (np.zeros(1), False),
    "shear_x": (_bins(0, 0.99), True),
    "shear_y": (_bins(0, 0.99), True),
    "translate_x": (_bins(0, 32), True),
    "translate_y": (_bins(0, 32), True),
    "rotate": (_bins(0, 135), True),
    "brightness": (_bins(0, 0.99), True),
    "color": (_bins(0, 0.99), True),
    "contrast": (_bins(0, 0.99), True),
    "sharpness": (_bins(0, 0.99), True),
    "posterize": (8 - np.round(np.arange(31) / 5), False),
    "solarize": (_bins(255, 0), False),
    "autocontrast": (np.zeros(1), False),
    "equalize": (np.zeros(1), False),
}


def apply_wide(image: Image.Image, name: str, value: float, canvas: Canvas) -> Image.Image:
    """Applies an operation of TrivialAugment; translations are in pixels."""
    if name == "identity":
        return image
    if name == "translate_x":
        return canvas.affine(image, (1, 0, -int(value), 0, 1, 0))
    if name == "translate_y":
        return canvas.affine(image, (1, 0, 0, 0, 1, -int(value)))
    if name == "solarize":
        # The threshold need not be a whole number.
        return ImageOps.solarize(image, value)
    is_factor = name in ("brightness", "color", "contrast", "sharpness")
    return OPERATIONS[name](image, 1 + value if is_factor else value, canvas)


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation, at one of 31 strengths: TrivialAugment of the wide space."""

    def __call__(
        self,
        rng: np.random.Generator,
        image: Image.Image,
        fill: tuple[int, ...],
        methods: Sequence[Image.Resampling] = METHODS,
    ) -> Image.Image:
        name = tuple(WIDE)[rng.integers(len(WIDE))]
        strengths, is_signed = WIDE[name]
        value = float(strengths[rng.integers(len(strengths))])
        if is_signed and rng.random() < 0.5:
            value = -value
        return apply_wide(image, name, value, Canvas(fill, methods[rng.integers(len(methods))]))


_AUTOAUGMENT_SECTIONS = {"mstd": "spread"}
_AUGMIX_SECTIONS = {
    "m": "magnitude", "w": "width", "d": "depth", "a": "alpha", "mstd": "spread",
}  # fmt: skip


def parse(text: str) -> AnyPolicy:
    """Reads timm's notation of a policy that is not RandAugment's.

    Raises:
      UserError: another policy, or a section that is unknown.

    >>> parse("augmix-m5-w4-d2").width
    4
    """
    name, *sections = text.split("-")
    if name in TABLES:
        return AutoAugment(TABLES[name], **read_sections(text, sections, _AUTOAUGMENT_SECTIONS))
    if name == "augmix":
        numbers = read_sections(text, sections, _AUGMIX_SECTIONS)
        kinds = {"width": int, "depth": int}
        policy = AugMix(**{field: kinds.get(field, float)(n) for field, n in numbers.items()})
        if policy.width < 1 or policy.alpha <= 0:
            raise UserError(f"augmentation policy {text!r}: w is at least 1, a above 0")
        return policy
    if name == "ta_wide":
        read_sections(text, sections, {})
        return TrivialAugment()
    known = [*TABLES, "augmix", "ta_wide"]
    raise UserError(f"augmentation policy {text!r}: {suggest(name, known)}")

"""What changes of whole images on the host are worth on 140 digits: halves, and crops mixed.

Each digit is changed some times beforehand. The net and its steps are those of few_digits_runs.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from benchmarks.claims import claim
from benchmarks.claims.few_digits import digits
from benchmarks.claims.few_digits_runs import (
    Data,
    Net,
    Scores,
    above,
    accuracy,
    any_place,
    learn,
    objective_of,
    stacked,
    standard,
)
from scanmax.data import augment

LEARNED, CHANGES, EPOCHS = 140, 32, 60
AREA = {"area": (0.5, 1.0)}
Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def moved(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Shifted, turned and resized a little."""
    return np.asarray(augment.random_affine(rng, image, translate=1.0, rotate=15.0, zoom=0.2))


CHANGED: dict[str, Change] = {
    "none": lambda rng, image: image,
    "moves": moved,
    "moves by halves": lambda rng, image: augment.by_halves(rng, image, moved),
    "a crop": lambda rng, image: np.asarray(
        augment.random_resized_crop(rng, image, (8, 8), **AREA)
    ),
    "two crops": lambda rng, image: augment.crop_mix(rng, image, (8, 8), crops=2, **AREA),
}


@functools.cache
def reached(name: str) -> Scores:
    """Held-out accuracies of what learns digits as they are changed."""

    def make(seed: int) -> Data:
        images, labels = digits(seed)
        rng, pixels = np.random.default_rng(seed), np.round((np.asarray(images) + 1) * 127.5)
        pixels = pixels[:LEARNED].astype(np.uint8)
        seen = [[CHANGED[name](rng, own) for _ in range(CHANGES)] for own in pixels]
        return {
            "placed": standard(jnp.asarray(np.asarray(seen) / 127.5 - 1, jnp.float32)),
            "label": labels[:LEARNED],
            "held": standard(images[1400:]),
            "held_label": labels[1400:],
        }

    runs = learn(objective_of(Net()), stacked(make), any_place, accuracy, epochs=EPOCHS)
    return runs.at("accuracy")


@claim("few-digits-halves-and-crops", paper="mediaug", by_hand=True)
def few_digits_halves_and_crops(quick):
    """Changes of halves by themselves, and crops mixed with crops, teach more than plain ones."""
    findings = []
    for name, other in (
        ("moves", "none"),
        ("moves by halves", "moves"),
        ("a crop", "none"),
        ("two crops", "a crop"),
    ):
        what = f"{name} and {other}, held-out digits, {LEARNED} learned"
        findings += above(what, reached(name), other, reached(other))
    return findings

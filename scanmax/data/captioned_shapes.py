"""Made-up pictures of one shape and captions in words, for learning images and texts together.

A picture shows a circle, square, triangle or cross of one of six colours, small or large, in one of
nine places on a dark ground of one of three colours. Its caption says the colour and the shape, and
size, ground and place each seven times of ten: "a small red circle on grey at the top left". The
class of a picture is its colour and shape. A token is a word.
"""

import dataclasses
import itertools

import numpy as np

from scanmax.data.config import DataConfig
from scanmax.data.source import Source, read_options
from scanmax.errors import UserError
from scanmax.fields import ranged

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 230),
    "yellow": (225, 215, 50),
    "purple": (170, 60, 200),
    "white": (240, 240, 240),
}
GROUNDS = {"grey": (70, 70, 70), "brown": (80, 50, 20), "navy": (15, 20, 70)}
SIZES = {"small": 0.32, "large": 0.5}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
WORDS = ("", ".", "a", "on", "at", "the", *SIZES, *COLOURS, *SHAPES, *GROUNDS, *ROWS, *COLUMNS)
CLASSES = tuple(itertools.product(SHAPES, COLOURS))
# Words of the longest caption, its end included, and how often a part is told.
LENGTH, TOLD = 11, 0.7


@dataclasses.dataclass
class Options:
    """What `config.data.kwargs` may hold.

    Attributes:
      examples: Training pictures.
      eval_examples: Held-out pictures.
      size: Side of a picture.
      labelled: Share of the training pictures whose class is told; of others it is -1.
      unseen: Classes that no training picture shows, each of whose colours and shapes others do.
    """

    examples: int = ranged(4096, "[1, inf)")
    eval_examples: int = ranged(512, "[1, inf)")
    size: int = ranged(24, "[12, inf)")
    labelled: float = ranged(1.0, "[0, 1]")
    unseen: int = ranged(0, "[0, 12]")


def encode(words: str) -> np.ndarray:
    """[LENGTH] tokens of a caption, its end and padding."""
    tokens = [WORDS.index(word) for word in (*words.split(), ".")]
    return np.pad(np.asarray(tokens, np.int32), (0, LENGTH - len(tokens)))


def decode(tokens: np.ndarray) -> str:
    """The words of a row, without padding."""
    return " ".join(WORDS[token] for token in np.asarray(tokens) if token)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture i of `classes`, a pure function of (seed, i)."""

    classes: tuple[int, ...]
    examples: int
    size: int
    seed: int
    labelled: float = 1.0

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        label = self.classes[index % len(self.classes)]
        shape, colour = CLASSES[label]
        size, ground = (str(rng.choice(list(known))) for known in (SIZES, GROUNDS))
        row, column = (int(place) for place in rng.integers(0, 3, 2))
        cell = self.size / 3
        y, x = (
            (np.arange(self.size) + 0.5 - (place + 0.5) * cell) / cell for place in (row, column)
        )
        inside = covers(shape, y[:, None] / SIZES[size], x[None] / SIZES[size])
        image = np.where(inside[..., None], COLOURS[colour], GROUNDS[ground])
        noise = rng.integers(-12, 13, image.shape)
        told = rng.random(3) < TOLD
        words = [
            "a",
            *([size] if told[0] else ()),
            colour,
            shape,
            *(["on", ground] if told[1] else ()),
            *(["at", "the", ROWS[row], COLUMNS[column]] if told[2] else ()),
        ]
        is_labelled = rng.random() < self.labelled
        return {
            "image": np.clip(image + noise, 0, 255).astype(np.uint8),
            "tokens": encode(" ".join(words)),
            "label": np.int32(label if is_labelled else -1),
        }


def covers(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where a shape of half width 1 around the middle is; y grows downwards."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85
    if shape == "triangle":
        return (abs(y) <= 1) & (abs(x) <= (y + 1) / 2)
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1)


def class_captions() -> np.ndarray:
    """[C, P, LENGTH]: captions of each class, without size and with either."""
    forms = ("a {} {}", *(f"a {size} {{}} {{}}" for size in SIZES))
    return np.stack(
        [np.stack([encode(form.format(colour, shape)) for form in forms])
         for shape, colour in CLASSES]
    )  # fmt: skip


def open_source(config: DataConfig) -> Source:
    """The source "captioned_shapes"; options are those of `Options`."""
    options = read_options(Options, config)
    if config.train_split or config.eval_split:
        raise UserError(
            f"config.data.name={config.name!r} is made up: its parts are config.data.kwargs "
            "examples and eval_examples, no splits"
        )
    # Every colour and shape is left in some other class.
    order = np.random.default_rng(0).permutation(len(CLASSES)).tolist()
    seen = tuple(sorted(order[options.unseen :]))
    everything = tuple(range(len(CLASSES)))
    names = tuple(f"{colour} {shape}" for shape, colour in CLASSES)
    unseen = ", ".join(names[place] for place in sorted(order[: options.unseen]))
    return Source(
        kind="image_text",
        train=Pictures(seen, options.examples, options.size, 0, options.labelled),
        eval=Pictures(everything, options.eval_examples, options.size, 1),
        shape=(options.size, options.size, 3),
        num_classes=len(CLASSES),
        class_names=names,
        mean=(0.3, 0.3, 0.3),
        std=(0.2, 0.2, 0.2),
        vocab_size=len(WORDS),
        text_length=LENGTH,
        class_tokens=class_captions(),
        decode=decode,
        notes=(f"no training picture shows: {unseen}",) if unseen else (),
    )

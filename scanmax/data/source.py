"""A source of data: random-access sequences of examples, and what is known of them.

An image example is {"image": uint8 [Y, X, C], "label": int}; a token example is
{"tokens": int32 [T + 1]}, one of labelled tokens {"tokens", "targets": int32 [T]}, where -1
asks nothing, and a series {"series": float32 [T, C], "target": float32}.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

IMAGENET_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
      kind: "image", "tokens", "labelled_tokens" or "series".
      train: Training examples by index.
      eval: Held-out examples by index.
      shape: Shape of an image, None where it varies; (T + 1,) of tokens; of what a task shows.
      num_classes: Classes, or the size of the vocabulary.
      class_names: Names of the classes.
      mean: Mean per channel of intensities in [0, 1].
      std: Deviation per channel.
      baselines: Computes figures of simple models on the held-out part, by name.
      decode: Turns tokens into text.
    """

    kind: str
    train: Sequence[Any]
    eval: Sequence[Any]
    shape: tuple[int | None, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    baselines: Callable[[], dict[str, float]] = dict
    decode: Callable[[np.ndarray], str] = str

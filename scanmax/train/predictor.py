"""What a classifier says of images as they come: files, folders and arrays."""

import dataclasses
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scanmax.data.decoding import MODES, SUFFIXES, as_uint8, read_image
from scanmax.data.preprocessing import Preprocessing
from scanmax.errors import UserError, suggest
from scanmax.train.config import ObjectiveConfig
from scanmax.train.losses import Loss, make_loss
from scanmax.train.objectives.base import merged

# Something that gives an image of so many channels when it is its turn.
Reader = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
      path: its file; "" of an array.
      label: the most probable class.
      name: its name.
      probability: of that class.
      probabilities: [C] of every class.
    """

    path: str
    label: int
    name: str
    probability: float
    probabilities: np.ndarray


class Classifier:
    """Probabilities of images of any size, prepared as training prepared the held-out part.

    Attributes:
      class_names: names of the classes; () where nobody told.
      channels: of the images that the model reads.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        prepare: Preprocessing,
        class_names: Sequence[str] = (),
        loss: Loss | None = None,
    ):
        self.class_names, self.channels = tuple(class_names), prepare.channels
        self._prepare, self._variables = prepare, variables
        # What a logit means is said by what it was taught with: softmax, where nobody says.
        loss = loss or make_loss(ObjectiveConfig())
        self._apply = jax.jit(
            lambda variables, images: loss.probabilities(merged(model.apply(variables, images)))
        )

    def __call__(self, images: Sequence[np.ndarray], batch_size: int = 64) -> np.ndarray:
        """[B, C] of at most `batch_size` images, uint8 [Y, X, C]; compiled for few sizes."""
        prepared = [self._prepare(image) for image in images]
        rows = min(1 << (len(prepared) - 1).bit_length(), batch_size)
        batch = np.zeros((rows, *prepared[0].shape), np.float32)
        batch[: len(prepared)] = prepared
        return np.asarray(self._apply(self._variables, batch))[: len(prepared)]


def predict(
    classifier: Classifier, inputs: Any, batch_size: int = 64, unreadable: str = "raise"
) -> Any:
    """What `Trained.predict` says."""
    if unreadable not in ("raise", "skip"):
        raise UserError(f"unreadable={unreadable!r}; {suggest(unreadable, ('raise', 'skip'))}")
    items = readers(inputs)
    found = []
    for start in range(0, len(items), batch_size):
        paths, images = [], []
        for path, read in items[start : start + batch_size]:
            try:
                images.append(read(classifier.channels))
                paths.append(path)
            except ValueError as error:
                if unreadable == "raise" or not path:
                    raise UserError(f"predict: {error}") from error
                print(f"warning: {error}; left out", file=sys.stderr)
        if images:
            said = classifier(images, batch_size)
            found += [_told(path, row, classifier.class_names) for path, row in zip(paths, said)]
    return found[0] if is_single(inputs) and found else found


def _told(path: str, row: np.ndarray, names: Sequence[str]) -> Prediction:
    label = int(row.argmax())
    # A head may be wider than the data.
    name = names[label] if label < len(names) else str(label)
    return Prediction(path, label, name, float(row[label]), row)


def is_single(inputs: Any) -> bool:
    """Whether something is one image, which gets one answer and no list."""
    if isinstance(inputs, str | os.PathLike):
        return not pathlib.Path(inputs).expanduser().is_dir()
    if isinstance(inputs, list | tuple):
        return False
    return is_one_image(np.shape(inputs))


def is_one_image(shape: tuple[int, ...]) -> bool:
    """[Y, X] and [Y, X, C] are one image; [N, Y, X] and [N, Y, X, C] are many."""
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in MODES)


def readers(inputs: Any) -> list[tuple[str, Reader]]:
    """The path of each image, and what reads it.

    Raises:
      UserError: nothing is there, or it is no image.
    """
    if isinstance(inputs, list | tuple):
        return [item for each in inputs for item in readers(each)]
    if isinstance(inputs, str | os.PathLike):
        path = pathlib.Path(inputs).expanduser()
        if not path.exists():
            raise UserError(f"no file or folder {str(path)!r}")
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        return [
            (str(file), lambda channels, file=file: read_image(file, channels)) for file in files
        ]
    values = np.asarray(inputs)
    if is_one_image(values.shape):
        return [("", lambda channels: intensities(values))]
    if values.ndim == 3 or (values.ndim == 4 and values.shape[-1] in MODES):
        return [("", lambda channels, image=image: intensities(image)) for image in values]
    raise UserError(
        f"predict: an array {list(values.shape)} of {values.dtype} is no image: give [Y, X], "
        "[Y, X, C], [N, Y, X] or [N, Y, X, C] with 1, 3 or 4 channels"
    )


def intensities(image: np.ndarray) -> np.ndarray:
    """An array as uint8; warns of floats that are no intensities in [0, 1], and cuts them off."""
    if np.issubdtype(image.dtype, np.floating) and image.size and np.isfinite(image).all():
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            warnings.warn(
                f"floats from {low:.3g} to {high:.3g} are cut off to [0, 1]: predict() takes "
                "intensities and normalises them itself; give uint8, or floats in [0, 1]",
                stacklevel=2,
            )
            image = np.clip(image, 0, 1)
    return as_uint8(image)

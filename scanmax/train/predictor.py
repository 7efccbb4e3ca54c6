"""What a trained classifier says of images as they come: files, folders and arrays."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scanmax.data.decoding import MODES, SUFFIXES, as_uint8, read_image
from scanmax.data.preprocessing import Preprocessing
from scanmax.errors import UserError
from scanmax.train.losses import make_loss
from scanmax.train.objectives import OBJECTIVES
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


class Predictor:
    """A classifier as `scanmax.train.inference` reads it, compiled once per number of rows.

    Raises:
      UserError: the run is no classifier of images, or its checkpoint does not say how images are
        prepared.
    """

    def __init__(self, trained: Any):
        data, own = trained.data, trained.config.objective.name
        if data["kind"] != "image" or "accuracy" not in OBJECTIVES[own].metric_names:
            raise UserError(
                f"predict() is of classifiers of images; this run is {own!r} on {data['kind']} data"
            )
        if OBJECTIVES[own].headless:
            raise UserError(
                f"predict() is of models with a head; {own!r} leaves one without, whose features "
                "trained.model.apply gives"
            )
        if not data.get("preprocessing"):
            raise UserError(
                "this checkpoint does not say how its images are prepared (its data were one's own "
                "batches, or it is of an earlier version): use trained.model.apply"
            )
        self._prepare = Preprocessing.from_dict(data["preprocessing"])
        self._names, self._variables = data["class_names"], trained.variables
        loss = make_loss(trained.config.objective)
        self._apply = jax.jit(
            lambda variables, images: loss.probabilities(
                merged(trained.model.apply(variables, images))
            )
        )

    def __call__(self, inputs: Any, batch_size: int = 64) -> Prediction | list[Prediction]:
        """What `Trained.predict` says."""
        items = readers(inputs)
        found = []
        for start in range(0, len(items), batch_size):
            found += self._batch(items[start : start + batch_size], batch_size)
        return found[0] if is_single(inputs) else found

    def _batch(self, items: Sequence[tuple[str, Reader]], batch_size: int) -> list[Prediction]:
        channels = self._prepare.channels
        try:
            images = [self._prepare(read(channels)) for _, read in items]
        except ValueError as error:
            raise UserError(f"predict: {error}") from error
        # Few sizes, each compiled once.
        rows = min(1 << (len(images) - 1).bit_length(), batch_size)
        batch = np.zeros((rows, *images[0].shape), np.float32)
        batch[: len(images)] = images
        said = np.asarray(self._apply(self._variables, batch))[: len(images)]
        return [self._told(path, row) for (path, _), row in zip(items, said)]

    def _told(self, path: str, row: np.ndarray) -> Prediction:
        label = int(row.argmax())
        # A head may be wider than the data.
        name = self._names[label] if label < len(self._names) else str(label)
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

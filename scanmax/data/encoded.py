"""Images that lie encoded in larger files, such as tar shards: read by place, decoded when asked.

What sources of such files share: which files hold which part, labels of numbers or names, and the
held-out part.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scanmax.data.decoding import MODES, read_picture
from scanmax.data.source import IMAGENET_NORMALISATION, Source
from scanmax.data.splitting import stratified
from scanmax.errors import UserError
from scanmax.fields import ranged

# Words by which file names and folders tell what is held out, best first.
HELD_OUT_NAMES = ("val", "validation", "valid", "test", "eval")


@dataclasses.dataclass
class ImageOptions:
    """What `config.data.kwargs` may hold of encoded images.

    Attributes:
      channels: 1 reads every image as grey, 3 as RGB, 4 as RGBA.
      held_out: Share of each class that is held out where no file says so by its name.
      split_seed: Decides which; the seed of a run does not, so that seeds can be compared.
      image: What holds the image, a column or an ending; "" finds it.
      label: What holds the class, a column, an ending or a field of JSON; "" finds it.
    """

    channels: int = ranged(3, "[1, 4]")
    held_out: float = ranged(0.2, "(0, 1)")
    split_seed: int = ranged(0, "[0, inf)")
    image: str = ""
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The images at some places of files.

    Attributes:
      files: the files.
      file: [N] which of them holds an image.
      start: [N] its first byte there.
      size: [N] its bytes.
      labels: [N] its class.
      channels: 1, 3 or 4.
    """

    files: tuple[str, ...]
    file: np.ndarray
    start: np.ndarray
    size: np.ndarray
    labels: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path = self.files[self.file[number]]
        start = int(self.start[number])
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(int(self.size[number]))
        image = read_picture(io.BytesIO(data), self.channels, f"{path} at byte {start}")
        return {"image": image, "label": self.labels[number]}

    def at(self, places: np.ndarray) -> "Encoded":
        """Those at some places."""
        parts = {name: getattr(self, name)[places] for name in ("file", "start", "size", "labels")}
        return dataclasses.replace(self, **parts)


def find_shards(root: pathlib.Path, suffix: str) -> tuple[list[pathlib.Path], list[bool], str]:
    """The files of a suffix, whether each is held out, and what their names say of that.

    A name or a folder that begins with "train", and one with "val" or "test", tells parts apart.

    Raises:
      UserError: there is none, or only some of the names tell.
    """
    if root.is_file():
        return [root], [False], ""
    files = sorted(
        file
        for file in root.rglob(f"*{suffix}")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(root).parts)
    )
    if not files:
        raise UserError(f"{root} holds no {suffix} file")
    parts = [part_of(file.relative_to(root)) for file in files]
    found = [name for name in HELD_OUT_NAMES if name in parts]
    if "train" not in parts or not found:
        if found:
            raise UserError(f"{root} holds {found[0]!r} and no file or folder called train...")
        return files, [False] * len(files), ""
    if "" in parts:
        raise UserError(
            f"{files[parts.index('')]} is neither of train nor of {found[0]}: name the files of "
            "each part so, or none"
        )
    kept = [(file, part == found[0]) for file, part in zip(files, parts)
            if part in ("train", found[0])]  # fmt: skip
    return [file for file, _ in kept], [held for _, held in kept], f"train and {found[0]}"


def part_of(path: pathlib.Path) -> str:
    """The part that a relative path names, in the first of its words that does; "" for none."""
    names = "|".join(("train", *HELD_OUT_NAMES))
    for word in path.parts:
        match = re.match(rf"({names})(?![a-z])", word.lower())
        if match:
            return match[1]
    return ""


def classes_of(
    values: Sequence[Any], names: Sequence[str], where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """[N] classes, and what they are called, of labels that are numbers from 0 or names.

    Raises:
      UserError: labels of several kinds, or numbers that are no classes.
    """
    kinds = {type(value) for value in values}
    if kinds == {str}:
        known = tuple(sorted(set(values)))
        places = {name: place for place, name in enumerate(known)}
        return np.asarray([places[value] for value in values], np.int32), known
    if not all(issubclass(kind, int | np.integer) for kind in kinds):
        told = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(f"{where}: labels are {told}; expected numbers from 0, or names")
    labels = np.asarray(values, np.int64)
    count = len(names) or int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= count:
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{where}: the label {bad} is none of {count} classes")
    return labels.astype(np.int32), tuple(names) or tuple(str(n) for n in range(count))


def image_source(
    at: Callable[[np.ndarray], Sequence[Any]],
    labels: np.ndarray,
    keys: Callable[[int], np.ndarray],
    held_out: np.ndarray,
    *,
    names: tuple[str, ...],
    options: ImageOptions,
    where: str,
    how: str,
    notes: tuple[str, ...] = (),
) -> Source:
    """A source of images that are found by place.

    Args:
      at: gives the images at places.
      labels: [N] their classes.
      keys: of a seed [N] numbers that decide what is held out where nothing else says so.
      held_out: [N] what files say of that.
      names: of the classes.
      options: of the source.
      where: as messages name it.
      how: what says which part is which; "" where nothing does.
      notes: what else a user is told.

    Raises:
      UserError: channels that cannot be.
    """
    check_channels(options.channels)
    if not how:
        held_out = stratified(labels, keys(options.split_seed), options.held_out)
        how = f"{options.held_out:g} of each class held out by split_seed {options.split_seed}"
    train, evaluation = (at(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    mean, std = IMAGENET_NORMALISATION if options.channels == 3 else ((0.5,), (0.5,))
    told = (
        f"{len(names)} classes, {len(train)} training and {len(evaluation)} held-out images of "
        f"{where} ({how})"
    )
    return Source(
        kind="image",
        train=train,
        eval=evaluation,
        shape=(None, None, options.channels),
        num_classes=len(names),
        class_names=names,
        mean=mean,
        std=std,
        notes=(told, *notes),
    )


def check_channels(channels: int) -> None:
    """Raises UserError for channels that no image has."""
    if channels not in MODES:
        raise UserError(f"config.data.kwargs.channels={channels} must be 1, 3 or 4")

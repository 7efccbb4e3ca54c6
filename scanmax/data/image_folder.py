"""The source "image_folder": files of images, one folder per class.

    DIR/cat/1.png DIR/dog/2.jpg             a share of each class is held out
    DIR/train/cat/1.png DIR/val/cat/2.png   the parts as they are

The listing is kept as an index in the user's cache and read again while no folder has changed; of
the images nothing is held.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from scanmax.data.cache import cache_place, keep_arrays, read_arrays
from scanmax.data.config import DataConfig
from scanmax.data.decoding import MODES, SUFFIXES, read_picture
from scanmax.data.source import IMAGENET_NORMALISATION, Source, find_data, read_options
from scanmax.data.splitting import name_keys, stratified
from scanmax.errors import UserError
from scanmax.fields import ranged

# A folder that changed so shortly before it was listed may change again within one tick of mtime.
RACY_SECONDS = 2.0
HELD_OUT_NAMES = ("val", "validation", "test")


@dataclasses.dataclass
class Options:
    """What `config.data.kwargs` may hold.

    Attributes:
      channels: 1 reads every file as grey, 3 as RGB, 4 as RGBA.
      held_out: Share of each class that is held out where the folder has no part of its own.
      split_seed: Decides which; the seed of a run does not, so that seeds can be compared.
    """

    channels: int = ranged(3, "[1, 4]")
    held_out: float = ranged(0.2, "(0, 1)")
    split_seed: int = ranged(0, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class Index:
    """What a folder lists. Paths are one array of bytes: a million of them are no objects.

    Attributes:
      class_names: names of the class folders, sorted.
      paths: relative paths of all images, one after another.
      ends: [N] where each ends.
      labels: [N] class of each.
      held_out: [N] whether it lies in the held-out folder.
      part: name of that folder; "" where the folder does not say what is held out.
      ignored: how many files of other kinds there are.
    """

    class_names: tuple[str, ...]
    paths: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    part: str
    ignored: int

    def path(self, place: int) -> str:
        """The relative path of an image."""
        start = self.ends[place - 1] if place else 0
        return os.fsdecode(self.paths[start : self.ends[place]].tobytes())

    def keys(self, seed: int) -> np.ndarray:
        """[N] a number for each path that only its name and the seed decide."""
        paths, ends = self.paths.tobytes(), self.ends.tolist()
        return name_keys((paths[start:end] for start, end in zip([0, *ends], ends)), seed)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images at some places of an index, read when they are asked for."""

    root: pathlib.Path
    index: Index
    places: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = self.places[number]
        path = self.index.path(place)
        image = read_picture(self.root / path, self.channels)
        return {"image": image, "label": self.index.labels[place], "path": path}


def open_source(config: DataConfig) -> Source:
    """The source "image_folder"; options are those of `Options`."""
    options = read_options(Options, config)
    channels = options.channels
    if channels not in MODES:
        raise UserError(f"config.data.kwargs.channels={channels} must be 1, 3 or 4")
    root = find_data(config, "a folder with one folder of images per class")
    if not root.is_dir():
        raise UserError(f"config.data.data_dir={config.data_dir!r} is a file, not a folder")
    root = root.absolute()
    index = read_index(root)
    if index.part:
        held_out, how = index.held_out, f"train/ and {index.part}/"
    else:
        # A hash of the name: files that come later do not move those that are there.
        held_out = stratified(index.labels, index.keys(options.split_seed), options.held_out)
        how = f"{options.held_out:g} of each class held out by split_seed {options.split_seed}"
    train, evaluation = (
        Images(root, index, np.flatnonzero(mask), channels) for mask in (~held_out, held_out)
    )
    notes = [
        f"{len(index.class_names)} classes, {len(train)} training and {len(evaluation)} held-out "
        f"images of {root} ({how})"
    ]
    if index.ignored:
        notes.append(f"{index.ignored} files there are none of {', '.join(SUFFIXES)}: left out")
    mean, std = IMAGENET_NORMALISATION if channels == 3 else ((0.5,), (0.5,))
    return Source(
        kind="image",
        train=train,
        eval=evaluation,
        shape=(None, None, channels),
        num_classes=len(index.class_names),
        class_names=index.class_names,
        mean=mean,
        std=std,
        notes=tuple(notes),
    )


def read_index(root: pathlib.Path) -> Index:
    """The index of a folder: the kept one while no folder has changed, else a new one."""
    file = index_file(root)
    kept = load_index(file)
    if kept is not None:
        return kept
    now = time.time()
    index, folders = list_images(root)
    if all(changed / 1e9 < now - RACY_SECONDS for changed in folders.values()):
        save_index(file, index, folders)
    return index


def index_file(root: pathlib.Path) -> pathlib.Path:
    """Where the index of a folder is kept: in the cache, as the folder may not be writable."""
    return cache_place(hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24] + ".npz")


def load_index(file: pathlib.Path) -> Index | None:
    """The kept index; None where there is none, it is damaged, or a folder has changed since."""
    kept = read_arrays(file)
    if kept is None:
        return None
    told, arrays = kept
    try:
        for folder, changed in told["folders"].items():
            if os.stat(folder).st_mtime_ns != changed:
                return None
        return Index(
            class_names=tuple(told["class_names"]),
            part=told["part"],
            ignored=told["ignored"],
            **arrays,
        )
    except (OSError, KeyError, TypeError):
        # A folder is gone, or another version wrote it: the folder is listed anew.
        return None


def save_index(file: pathlib.Path, index: Index, folders: dict[str, int]) -> None:
    """Keeps an index; where it cannot be written the next run lists the folder again."""
    arrays = {name: getattr(index, name) for name in ("paths", "ends", "labels", "held_out")}
    told = {"class_names": index.class_names, "part": index.part, "ignored": index.ignored}
    keep_arrays(file, {**told, "folders": folders}, arrays)


def list_images(root: pathlib.Path) -> tuple[Index, dict[str, int]]:
    """Lists a folder; returns its index and the time of change of every folder in it.

    Raises:
      UserError: a folder that is not laid out as the module says.
    """
    folders = {str(root): os.stat(root).st_mtime_ns}
    parts = find_parts(root)
    names = [folder.name for folder in class_folders(root / parts[0])]
    if not names:
        raise UserError(
            f"{root / parts[0]} holds no class folders: put the images of each class into a "
            "folder of its own"
        )
    relative: list[bytes] = []
    labels, held_out, ignored = [], [], 0
    skip = len(os.path.join(root, ""))
    for part in parts:
        folders[str(root / part)] = os.stat(root / part).st_mtime_ns
        found = {folder.name: folder for folder in class_folders(root / part)}
        strange = sorted(set(found) - set(names))
        if strange:
            raise UserError(f"{root / part} holds a class {strange[0]!r} that {parts[0]}/ has not")
        for label, name in enumerate(names):
            if name not in found:
                continue
            files, others = list_files(found[name], folders)
            ignored += sum(others.values())
            if not files and part == parts[0]:
                kinds = ", ".join(kind or "no suffix" for kind in sorted(others))
                what = f"only files of other kinds ({kinds})" if others else "no image"
                raise UserError(f"{found[name].path} holds {what}: a class is a folder of images")
            relative += [os.fsencode(file[skip:]) for file in files]
            labels += [label] * len(files)
            held_out += [part != parts[0]] * len(files)
    index = Index(
        class_names=tuple(names),
        paths=np.frombuffer(b"".join(relative), np.uint8),
        ends=np.cumsum([len(path) for path in relative]),
        labels=np.asarray(labels, np.int32),
        held_out=np.asarray(held_out, bool),
        part=parts[1] if len(parts) > 1 else "",
        ignored=ignored,
    )
    return index, folders


def find_parts(root: pathlib.Path) -> tuple[str, ...]:
    """("train", "val") as the folder has them, ("train",), or (".",) of class folders alone."""
    tops = {folder.name: folder for folder in class_folders(root)}
    # A class may be called train; the part of that name holds folders.
    if "train" not in tops or not class_folders(tops["train"]):
        return (".",)
    held_out = [name for name in HELD_OUT_NAMES if name in tops]
    beside = sorted(set(tops) - {"train", *HELD_OUT_NAMES})
    if beside:
        raise UserError(
            f"{root} holds train/ and other folders beside it ({', '.join(beside[:3])}): either "
            "train/ and val/, or class folders"
        )
    return ("train", *held_out[:1])


def class_folders(folder: pathlib.Path) -> list[os.DirEntry]:
    """The folders in a folder by name, without hidden ones."""
    found = [entry for entry in os.scandir(folder) if entry.is_dir() and is_shown(entry.name)]
    return sorted(found, key=lambda entry: entry.name)


def list_files(
    folder: os.DirEntry, folders: dict[str, int]
) -> tuple[list[str], collections.Counter[str]]:
    """The images below a class folder, sorted, and how many other files of each suffix.

    Adds the time of change of each folder that it lists to `folders`.
    """
    images, others = [], collections.Counter()
    for path, entries in walk(folder.path):
        folders[path] = os.stat(path).st_mtime_ns
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in SUFFIXES:
                images.append(entry.path)
            else:
                others[suffix] += 1
    return sorted(images), others


def walk(folder: str) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Each folder from this one down, with the files in it; hidden ones are left out."""
    entries = [entry for entry in os.scandir(folder) if is_shown(entry.name)]
    # Links to folders may lead back here.
    below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    yield folder, [entry for entry in entries if not entry.is_dir()]
    for entry in below:
        yield from walk(entry.path)


def is_shown(name: str) -> bool:
    """Whether a name is neither hidden nor one of what archives and notebooks leave behind."""
    return not name.startswith((".", "__MACOSX"))

"""The source "arrays": images and labels from .npz, .npy or .safetensors files, or a notebook's.

    images.npz                        image [N, Y, X] or [N, Y, X, C], label [N]
    images.safetensors                the same, read from the disk as they are asked for
    images/image.npy images/label.npy so these

`eval_image` and `eval_label` are the held-out part, else a share of each class is; `class_names`
names the classes.
"""

import dataclasses
import json
import mmap
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scanmax.data.config import DataConfig
from scanmax.data.decoding import MODES, as_uint8
from scanmax.data.source import IMAGENET_NORMALISATION, Source, find_data, read_options
from scanmax.data.splitting import stratified
from scanmax.errors import UserError, suggest
from scanmax.fields import ranged

NAMES = ("image", "label", "eval_image", "eval_label", "class_names")
# Names in .safetensors of types that images and labels may have.
DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"{letter}{bits}": np.dtype(f"<{kind}{bits // 8}") for letter, kind, sizes in (
        ("U", "u", (8, 16, 32, 64)), ("I", "i", (8, 16, 32, 64)), ("F", "f", (16, 32, 64)),
    ) for bits in sizes},
}  # fmt: skip
WHAT = "a .npz or .safetensors file, or a folder of image.npy and label.npy"


@dataclasses.dataclass
class Options:
    """What `config.data.kwargs` may hold.

    Attributes:
      held_out: Share of each class that is held out where there is no `eval_image`.
      split_seed: Decides which; the seed of a run does not, so that seeds can be compared.
    """

    held_out: float = ranged(0.2, "(0, 1)")
    split_seed: int = ranged(0, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of arrays. Those of a file are opened anew in a worker process, not sent to it."""

    image: np.ndarray
    label: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = self.places[number]
        image = as_uint8(np.asarray(self.image[place]))
        return {"image": image[..., None] if image.ndim == 2 else image, "label": self.label[place]}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "image": sent(self.image)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, image=received(state["image"]))


def sent(array: np.ndarray) -> Any:
    """What another process is sent of an array: where it lies, if in a file."""
    # Part of a mapped array does not know where in the file it begins.
    if not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)):
        return array
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return array.filename, array.dtype, array.offset, array.shape, order


def received(array: Any) -> np.ndarray:
    """The array again."""
    if not isinstance(array, tuple):
        return array
    filename, dtype, offset, shape, order = array
    return np.memmap(filename, dtype, "r", offset, shape, order)


def open_source(config: DataConfig) -> Source:
    """The source "arrays"; options are those of `Options`."""
    path = find_data(config, WHAT)
    try:
        arrays = read_files(path.absolute())
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.data.data_dir={str(path)!r} cannot be read: {reason}") from error
    return from_arrays(arrays, config, str(path))


def read_files(path: pathlib.Path, names: Sequence[str] = NAMES) -> dict[str, np.ndarray]:
    """Arrays by name; of a folder those of `names`."""
    if path.is_dir():
        files = {file.stem: file for file in sorted(path.glob("*.npy"))}
        if "image" not in files:
            raise UserError(f"{path} holds no image.npy; config.data.data_dir is {WHAT}")
        # What is not ours is not opened.
        return {name: np.load(file, mmap_mode="r") for name, file in files.items() if name in names}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    if path.suffix == ".safetensors":
        return map_safetensors(path)
    raise UserError(f"{path} is not {WHAT}")


def map_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, read from the disk as they are asked for.

    Raises:
      UserError: arrays of a type that numpy has not.
    """
    from safetensors import safe_open

    # Which checks the file; numbers lie behind a header of so many bytes.
    with safe_open(path, "numpy"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    arrays = {}
    for name, told in header.items():
        if name == "__metadata__":
            continue
        if told["dtype"] not in DTYPES:
            raise UserError(f"{path}: {name} is {told['dtype']}; expected {', '.join(DTYPES)}")
        begin, end = told["data_offsets"]
        shape, dtype = tuple(told["shape"]), DTYPES[told["dtype"]]
        empty = begin == end
        arrays[name] = (
            np.zeros(shape, dtype)
            if empty
            else np.memmap(path, dtype, "r", 8 + length + begin, shape)
        )
    return arrays


def from_arrays(
    data: Mapping[str, Any] | Sequence[Any], config: DataConfig, where: str = "data"
) -> Source:
    """A source of arrays in memory.

    Args:
      data: (images, labels), or arrays by the names of `NAMES`.
      config: of which `kwargs` are `Options`.
      where: whose arrays they are, as messages name it.

    Raises:
      UserError: arrays that are no images and labels, or do not fit each other.
    """
    options = read_options(Options, config)
    if not isinstance(data, Mapping):
        if not isinstance(data, Sequence) or len(data) != 2:
            raise UserError(f"{where} must be (images, labels), or arrays by name: {NAMES}")
        data = dict(zip(NAMES, data))
    unknown = sorted(set(data) - set(NAMES))
    missing = [name for name in NAMES[:2] if name not in data]
    if missing or unknown:
        told = f"has no {missing[0]!r}" if missing else f"holds {unknown[0]!r}"
        near = suggest(missing[0], unknown) if missing else suggest(unknown[0], NAMES)
        raise UserError(f"{where} {told}; {near}; arrays are {', '.join(NAMES)}")
    arrays = {name: np.asanyarray(value) for name, value in data.items()}
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    parts = [(arrays["image"], check_labels(arrays["label"], names, f"{where}: label"))]
    if ("eval_image" in arrays) != ("eval_label" in arrays):
        raise UserError(f"{where}: eval_image and eval_label go together")
    if "eval_image" in arrays:
        labels = check_labels(arrays["eval_label"], names, f"{where}: eval_label")
        parts.append((arrays["eval_image"], labels))
    for (image, label), name in zip(parts, ("image", "eval_image")):
        check_images(image, label, f"{where}: {name}")
    shape = (*parts[0][0].shape[1:], 1)[:3]
    if len(parts) == 2:
        other = (*parts[1][0].shape[1:], 1)[:3]
        if other != shape:
            raise UserError(f"{where}: image holds {shape} and eval_image {other}, [Y, X, C]")
        train, evaluation = (Rows(*part, np.arange(len(part[1]))) for part in parts)
        how = "eval_image"
    else:
        image, label = parts[0]
        keys = np.random.default_rng(options.split_seed).random(len(label))
        held_out = stratified(label, keys, options.held_out)
        train, evaluation = (
            Rows(image, label, np.flatnonzero(mask)) for mask in (~held_out, held_out)
        )
        how = f"{options.held_out:g} of each class held out by split_seed {options.split_seed}"
    classes = len(names) or 1 + max(int(label.max()) for _, label in parts)
    mean, std = IMAGENET_NORMALISATION if shape[-1] == 3 else ((0.5,), (0.5,))
    return Source(
        kind="image",
        train=train,
        eval=evaluation,
        shape=shape,
        num_classes=classes,
        class_names=names or tuple(str(label) for label in range(classes)),
        mean=mean,
        std=std,
        notes=(
            f"{classes} classes, {len(train)} training and {len(evaluation)} held-out images of "
            f"{where} ({how})",
        ),
    )


def check_labels(label: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    """Labels in memory, each a class.

    Raises:
      UserError: they are not.
    """
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"{where} is {label.dtype} {list(label.shape)}: expected integers [N], the class of "
            "each image"
        )
    if not len(label):
        raise UserError(f"{where} is empty")
    low, high = int(label.min()), int(label.max())
    if low < 0 or (names and high >= len(names)):
        bad = low if low < 0 else high
        limit = f"outside the {len(names)} class_names" if names else "below 0"
        raise UserError(f"{where} holds {bad} at {int(np.argmax(label == bad))}, {limit}")
    return np.asarray(label, np.int32)


def check_images(image: np.ndarray, label: np.ndarray, where: str) -> None:
    """Raises UserError for what cannot be the images of these labels."""
    told = f"{where} is {image.dtype} {list(image.shape)}"
    if image.ndim not in (3, 4):
        raise UserError(f"{told}: expected [N, Y, X] or [N, Y, X, C]")
    if image.ndim == 4 and image.shape[-1] not in MODES:
        first = image.shape[1] in MODES
        hint = "; the channels come last: image.transpose(0, 2, 3, 1)" if first else ""
        raise UserError(f"{told}: expected 1, 3 or 4 channels in [N, Y, X, C]{hint}")
    if len(image) != len(label):
        raise UserError(f"{told} for {len(label)} labels")
    try:
        as_uint8(np.asarray(image[0]))
    except ValueError as error:
        raise UserError(f"{told}: {error}") from error

"""Sources of data by name: a user's own, made up or from Python itself, and those of TFDS."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scanmax.data import (
    arrays,
    captioned_shapes,
    corpus,
    hub,
    image_folder,
    pairs,
    parquet,
    synthetic,
    task_source,
    text,
    webdataset,
)
from scanmax.data.config import DataConfig
from scanmax.data.decoding import EncodedPicture
from scanmax.data.source import IMAGENET_NORMALISATION, Source
from scanmax.errors import UserError, suggest

# Split sets whose decoded examples fit in this are decoded once.
CACHED_BYTES = 2**30


class Cached:
    """A sequence that decodes each element once; safe under threads, who would store the same."""

    def __init__(self, elements: Sequence[Any]):
        self._elements = elements
        self._known: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: int) -> Any:
        if index not in self._known:
            self._known[index] = self._elements[index]
        return self._known[index]

    def __getstate__(self):
        return {"_elements": self._elements, "_known": {}}


class Guarded:
    """A sequence that names an element which cannot be read, and shows the next in its place.

    What is shown depends on the data alone, not on when an element was first asked for: batches
    stay a pure function of (seed, step). Past `allowed` such elements it raises UserError; None
    allows none, whatever the config says. What cannot be decoded cannot be read, unless it is
    decoded later, as far as a crop needs it.
    """

    def __init__(
        self,
        elements: Sequence[Any],
        name: str,
        allowed: int | None = None,
        decodes_later: bool = False,
    ):
        self._elements, self._name, self._allowed = elements, name, allowed or 0
        self._decodes_later = decodes_later
        self._may_pass = allowed is not None
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: int) -> Any:
        for ahead in range(self._allowed + 1):
            place = (index + ahead) % len(self)
            try:
                return self._read(place)
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                what = f"record {place} of {self._name} cannot be read "
                what += f"({type(error).__name__}: {error})"
                is_new = place not in self._bad
                self._bad.add(place)
                if len(self._bad) > self._allowed:
                    remedy = "; mend the data" + (
                        f", or pass over so many by config.data.max_bad_records={len(self._bad)}"
                        if self._may_pass
                        else ": none of this part may be passed over"
                    )
                    raise UserError(what + remedy) from error
                if is_new:
                    print(f"warning: {what}; the next one takes its place", file=sys.stderr)
        raise UserError(f"records {index} to {place} of {self._name} cannot be read")

    def _read(self, place: int) -> Any:
        element = self._elements[place]
        image = element.get("image") if isinstance(element, Mapping) else None
        if isinstance(image, EncodedPicture) and not self._decodes_later:
            image.reduced(1)
        return element


def open_source(config: DataConfig, data: Any = None) -> Source:
    """Opens a source by name: one of SOURCES, "hf:NAME", or an image set of TFDS.

    Args:
      config: what to open.
      data: images and labels in memory, for the source "arrays", or images and tokens for "pairs";
        None reads `config.data_dir`.
    """
    if data is None:
        source = opener(config.name)(config)
    else:
        source = IN_MEMORY.get(config.name, arrays.from_arrays)(data, config)
    if config.decode == "scaled" and config.max_bad_records:
        raise UserError(
            f"config.data.max_bad_records={config.max_bad_records}: with config.data.decode="
            "'scaled' a record is decoded when it is cropped, and can no more be passed over"
        )
    return dataclasses.replace(
        source,
        train=Guarded(
            source.train,
            f"the training part of {config.name!r}",
            config.max_bad_records,
            config.decode == "scaled",
        ),
        eval=Guarded(source.eval, f"the held-out part of {config.name!r}"),
    )


def opener(name: str) -> Callable[[DataConfig], Source]:
    """The function that opens a source of that name."""
    is_hub = name.startswith(hub.PREFIX)
    return SOURCES.get(name, hub.open_source if is_hub else open_tfds)


SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "arrays": arrays.open_source,
    "adding": task_source.open_source,
    "bytes": corpus.open_source,
    "captioned_shapes": captioned_shapes.open_source,
    "copy_memory": task_source.open_source,
    "image_folder": image_folder.open_source,
    "induction_heads": task_source.open_source,
    "mqar": task_source.open_source,
    "pairs": pairs.open_source,
    "parquet": parquet.open_source,
    "reconstruction": task_source.open_source,
    "reversal": task_source.open_source,
    "selective_copying": task_source.open_source,
    "synthetic": synthetic.open_source,
    "text": text.open_source,
    "webdataset": webdataset.open_source,
    "word_order": task_source.open_source,
}
# What reads arrays in memory by another form than images and labels.
IN_MEMORY = {"pairs": pairs.from_arrays}
# TFDS builders of ours, registered with TFDS when their module is imported.
BUILDERS = {"digits": "scanmax.data.digits"}
NORMALISATION = {
    "digits": ((0.306,), (0.377,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
}
# Names of the held-out part, best first; where a set has none of them the config must say.
EVAL_SPLITS = ("validation", "test")


def make_builder(name: str, data_dir: str = "") -> Any:
    """The TFDS builder of that name, which may not be prepared yet.

    Raises:
      UserError: TFDS knows no such set; the message lists near matches.
    """
    import importlib

    import tensorflow_datasets as tfds

    # TFDS logs what scanmax says itself in one line.
    _quiet()
    if name in BUILDERS:
        importlib.import_module(BUILDERS[name])
    where = {"data_dir": str(pathlib.Path(data_dir).expanduser())} if data_dir else {}
    try:
        return tfds.builder(name, file_format="array_record", **where)
    except tfds.core.DatasetNotFoundError as error:
        known = [*SOURCES, *BUILDERS, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(f"unknown data set {name!r}; {suggest(name, known)}") from error
    except (ValueError, AssertionError) as error:
        raise UserError(f"data set {name!r}: {error}") from error


def _quiet() -> None:
    import absl.logging

    absl.logging.set_verbosity(max(absl.logging.ERROR, absl.logging.get_verbosity()) - 1)


def prepare_command(name: str, data_dir: str = "") -> str:
    return f"python -m scanmax.data prepare {name}" + (
        f" --data_dir={data_dir}" if data_dir else ""
    )


def open_tfds(config: DataConfig) -> Source:
    """Opens a prepared image set of TFDS; it has no options."""
    builder = make_builder(config.name, config.data_dir)
    if config.kwargs:
        raise UserError(f"config.data.kwargs={config.kwargs}: {config.name!r} has no options")
    if not builder.is_prepared():
        raise UserError(
            f"data set {config.name!r} is not prepared in {builder.data_dir}; "
            f"run: {prepare_command(config.name, config.data_dir)}"
        )
    info = builder.info
    features = dict(info.features or {})
    if "image" not in features or "label" not in features:
        raise UserError(
            f"data set {config.name!r} has no image and label; it has {', '.join(sorted(features))}"
        )
    names = sorted(info.splits)
    eval_split = config.eval_split or next((name for name in EVAL_SPLITS if name in names), "")
    if not eval_split:
        raise UserError(
            f"data set {config.name!r} has no held-out part among {', '.join(names)}; "
            "set config.data.eval_split and train_split, such as 'train[90%:]' and 'train[:90%]'"
        )
    shape = tuple(features["image"].shape)
    channels = shape[-1]
    mean, std = NORMALISATION.get(
        config.name, IMAGENET_NORMALISATION if channels == 3 else ((0.5,), (0.5,))
    )
    label = features["label"]
    return Source(
        kind="image",
        train=_open_split(builder, config.train_split or "train", shape),
        eval=_open_split(builder, eval_split, shape),
        shape=shape,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        mean=mean,
        std=std,
    )


def _open_split(builder: Any, split: str, shape: tuple[int | None, ...]) -> Sequence[Any]:
    try:
        examples = builder.as_data_source(split)
    except NotImplementedError as error:
        raise UserError(
            f"data set {builder.name!r} in {builder.data_dir} lies in a format without random "
            f"access; prepare it elsewhere: {prepare_command(builder.name, 'DIR')}"
        ) from error
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise UserError(f"split {split!r} of {builder.name!r}: {error}; it has {known}") from error
    if None not in shape and len(examples) * np.prod(shape) <= CACHED_BYTES:
        return Cached(examples)
    return examples

"""The source "parquet": files of a table of images and labels, or of text.

    train-00000-of-00002.parquet ... test-00000-of-00001.parquet      parts by their names
    DIR/any.parquet                                                   a share is held out

A row cannot be read without its neighbours, so the encoded images are copied once, one behind
another, into a file in the user's cache; text is tokenised as that of the source "text" is.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scanmax.data import text
from scanmax.data.cache import keep_arrays, keep_folder, read_arrays, stamps_of
from scanmax.data.config import DataConfig
from scanmax.data.encoded import Encoded, ImageOptions, classes_of, find_shards, image_source
from scanmax.data.source import Source, find_data, read_options
from scanmax.data.splitting import name_keys
from scanmax.errors import UserError, suggest

IMAGE_NAMES = ("image", "img", "jpg", "png", "image_bytes")
LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "target")
TEXT_NAMES = ("text", "content")
ROWS_AT_ONCE = 256


@dataclasses.dataclass
class TextOptions(text.CorpusOptions):
    """What `config.data.kwargs` may hold of a table of text.

    Attributes:
      text: Column of the documents; "" finds it.
    """

    text: str = ""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that a table is read by.

    Attributes:
      image: of the encoded image; "" for text.
      label: of its class.
      names: of the classes, where the file tells them.
      text: of documents.
    """

    image: str = ""
    label: str = ""
    names: tuple[str, ...] = ()
    text: str = ""


def open_source(config: DataConfig) -> Source:
    """The source "parquet"; options are those of `ImageOptions`, or of text `TextOptions`."""
    root = find_data(config, "a .parquet file or a folder of them").absolute()
    files, held_out, how = find_shards(root, ".parquet")
    columns = find_columns(files[0], config)
    if columns.text:
        return open_text(config, root, files, held_out, how, columns.text)
    options = read_options(ImageOptions, config)
    folder, labels, arrays = read_images(root, files, columns)
    classes, names = classes_of(labels, columns.names, str(root))
    images = Encoded(
        files=(str(folder / "images.bin"),),
        file=np.zeros(len(classes), np.int32),
        start=arrays["start"],
        size=arrays["size"],
        labels=classes,
        channels=options.channels,
    )
    file, row = arrays["table"], arrays["row"]
    keys = [f"{files[f].name}/{r}".encode() for f, r in zip(file, row)] if not how else []
    return image_source(
        images.at,
        classes,
        lambda seed: name_keys(keys, seed),
        np.asarray(held_out)[file],
        names=names,
        options=options,
        where=str(root),
        how=how,
    )


def open_text(
    config: DataConfig,
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    held_out: Sequence[bool],
    how: str,
    column: str,
) -> Source:
    """The documents of a column."""
    options = read_options(TextOptions, config)

    def documents(is_held: bool) -> Iterator[str]:
        for file, held in zip(files, held_out):
            if held == is_held:
                for rows in batches(file, [column]):
                    yield from (value or "" for value in rows[column])

    stamps = [column, [bool(held) for held in held_out], stamps_of(files)]
    found = text.Documents(
        str(root),
        stamps,
        lambda: documents(False),
        (lambda: documents(True)) if how else None,
    )
    return text.open_documents(found, config, options)


def find_columns(file: pathlib.Path, config: DataConfig) -> Columns:
    """The columns of a table: those that options name, or that have usual names.

    Raises:
      UserError: no table, or none of such columns.
    """
    schema = open_table(file).schema_arrow
    have, wanted = schema.names, config.kwargs
    for name in ("image", "label", "text"):
        if wanted.get(name) and wanted[name] not in have:
            raise UserError(
                f"config.data.kwargs.{name}={wanted[name]!r} is no column of {file}; "
                + suggest(wanted[name], have)
            )
    usual = {"image": IMAGE_NAMES, "label": LABEL_NAMES, "text": TEXT_NAMES}
    found = {
        kind: wanted.get(kind) or next((name for name in names if name in have), "")
        for kind, names in usual.items()
    }
    if found["image"] and not wanted.get("text"):
        if not found["label"]:
            raise UserError(
                f"{file} has no column of classes among {', '.join(have)}; name it by "
                "config.data.kwargs.label"
            )
        names = class_names(schema.metadata or {}, found["label"])
        return Columns(image=found["image"], label=found["label"], names=names)
    if found["text"]:
        return Columns(text=found["text"])
    raise UserError(
        f"{file} has neither images nor text among {', '.join(have)}; name a column by "
        "config.data.kwargs.image or .text"
    )


def class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of the classes, as the package `datasets` writes them into a file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def open_table(file: pathlib.Path) -> Any:
    """A file's table.

    Raises:
      UserError: it is none.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} is no Parquet: {' '.join(str(error).split())}") from error


def batches(file: pathlib.Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Columns of a few rows at a time."""
    table = open_table(file)
    missing = [name for name in columns if name not in table.schema_arrow.names]
    if missing:
        raise UserError(f"{file} has no column {missing[0]!r}, which others have")
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
        yield batch.to_pydict()


def read_images(
    root: pathlib.Path, files: Sequence[pathlib.Path], columns: Columns
) -> tuple[pathlib.Path, list[Any], dict[str, np.ndarray]]:
    """The folder of the copied images, labels and places: kept ones while no file has changed."""
    what = json.dumps([str(root), stamps_of(files), columns.image, columns.label])
    name = hashlib.sha256(what.encode()).hexdigest()[:24]
    folder = keep_folder(
        f"parquet-{name}",
        lambda place: copy_images(place, files, columns),
        f"the images of {root}",
    )
    kept = read_arrays(folder / "index.npz")
    if kept is None:
        raise UserError(f"{folder} is damaged: remove it")
    return folder, kept[0], kept[1]


def copy_images(folder: pathlib.Path, files: Sequence[pathlib.Path], columns: Columns) -> None:
    """Writes the encoded images as images.bin, and where each lies as index.npz."""
    labels: list[Any] = []
    rows: list[tuple[int, int, int, int]] = []
    start = 0
    with (folder / "images.bin").open("wb") as sink:
        for number, file in enumerate(files):
            row = 0
            for found in batches(file, [columns.image, columns.label]):
                for image, label in zip(found[columns.image], found[columns.label]):
                    data = image.get("bytes") if isinstance(image, dict) else image
                    if not isinstance(data, bytes):
                        raise UserError(
                            f"{file}, row {row}: the column {columns.image!r} holds "
                            f"{type(data).__name__}, not an encoded image"
                        )
                    sink.write(data)
                    labels.append(label)
                    rows.append((number, row, start, len(data)))
                    start += len(data)
                    row += 1
    if not rows:
        raise UserError(f"{files[0]} and the others of its folder hold no row")
    places = np.asarray(rows, np.int64)
    arrays = {name: places[:, i] for i, name in enumerate(("table", "row", "start", "size"))}
    keep_arrays(folder / "index.npz", labels, arrays)

"""The source "webdataset": tar shards of images and their labels, by the key of their names.

    train-000.tar: 0001.jpg 0001.cls 0002.jpg 0002.cls ...       the class, a number or a name
    val-000.tar:   0001.png 0001.json ...                        {"label": 3}

The shards are gone through once; where each image lies is kept in the user's cache, and images are
read from the shards in any order. `classes.txt` beside them names the classes, a line each.
"""

import hashlib
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scanmax.data.cache import cache_place, keep_arrays, read_arrays, stamps_of
from scanmax.data.config import DataConfig
from scanmax.data.decoding import SUFFIXES
from scanmax.data.encoded import Encoded, ImageOptions, classes_of, find_shards, image_source
from scanmax.data.source import Source, find_data, read_options
from scanmax.data.splitting import name_keys
from scanmax.errors import UserError

Member = tuple[int, int]


def open_source(config: DataConfig) -> Source:
    """The source "webdataset"; options are those of `ImageOptions`."""
    options = read_options(ImageOptions, config)
    root = find_data(config, "a folder of .tar shards").absolute()
    shards, held_out, how = find_shards(root, ".tar")
    labels, arrays = read_index(root, shards, options)
    names_file = root / "classes.txt"
    names = read_names(names_file) if names_file.is_file() else ()
    classes, names = classes_of(labels, names, str(root))
    place = arrays["shard"]
    images = Encoded(
        files=tuple(map(str, shards)),
        file=place,
        start=arrays["start"],
        size=arrays["size"],
        labels=classes,
        channels=options.channels,
    )
    keys, ends = arrays["keys"].tobytes(), arrays["ends"].tolist()
    without = int(arrays["without"])
    return image_source(
        images.at,
        classes,
        lambda seed: name_keys((keys[a:b] for a, b in zip([0, *ends], ends)), seed),
        np.asarray(held_out)[place],
        names=names,
        options=options,
        where=str(root),
        how=how,
        notes=(f"{without} samples without an image: left out",) if without else (),
    )


def read_names(file: pathlib.Path) -> tuple[str, ...]:
    """The lines of a file that say anything."""
    return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())


def read_index(
    root: pathlib.Path, shards: Sequence[pathlib.Path], options: ImageOptions
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Labels and places of all images: the kept ones while no shard has changed, else new ones."""
    what = [stamps_of(shards), options.image, options.label]
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
    file = cache_place(f"shards-{name}.npz")
    kept = read_arrays(file)
    if kept is not None and kept[0]["what"] == what:
        return kept[0]["labels"], kept[1]
    labels, rows, keys, without = [], [], [], 0
    for number, shard in enumerate(shards):
        for key, members in samples(shard):
            image = find_image(members, options.image)
            if image is None:
                without += 1
                continue
            labels.append(read_label(shard, key, members, options.label))
            rows.append((number, *members[image]))
            keys.append(f"{shard.name}/{key}".encode())
    if not rows:
        raise UserError(
            f"{root} holds no image ({', '.join(SUFFIXES)})"
            + (f" with the ending {options.image!r}" if options.image else "")
        )
    places = np.asarray(rows, np.int64)
    arrays = {
        "shard": places[:, 0].astype(np.int32),
        "start": places[:, 1],
        "size": places[:, 2],
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "ends": np.cumsum([len(key) for key in keys]),
        "without": np.asarray(without),
    }
    keep_arrays(file, {"what": what, "labels": labels}, arrays)
    return labels, arrays


def samples(shard: pathlib.Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, ending -> (first byte, size)) of each run of files that share a key.

    Raises:
      UserError: the shard is compressed or no tar at all.
    """
    key, members = None, {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                folder, name = os.path.split(entry.name)
                stem, dot, ending = name.partition(".")
                if not entry.isfile() or not dot or name.startswith("."):
                    continue
                own = os.path.join(folder, stem)
                if own != key and members:
                    yield key, members
                    members = {}
                key = own
                members[ending.lower()] = (entry.offset_data, entry.size)
    except tarfile.TarError as error:
        raise UserError(
            f"{shard} is no tar, or is compressed, which leaves no random access: {error}"
        ) from error
    if members:
        yield key, members


def find_image(members: dict[str, Member], ending: str) -> str | None:
    """The ending of a sample's image."""
    if ending:
        return ending if ending in members else None
    # Of "seg.png" the last suffix counts; the shortest ending is the image itself.
    known = [name for name in members if f".{name.rpartition('.')[2]}" in SUFFIXES]
    return min(known, key=len, default=None)


def read_label(shard: pathlib.Path, key: str, members: dict[str, Member], name: str) -> int | str:
    """The class of a sample: of its `.cls`, or of a field of its `.json`.

    What `name` names is a file's ending or else that field; "" looks for both by their usual names.

    Raises:
      UserError: it has none; names the shard and the key.
    """

    def read(ending: str) -> str:
        start, size = members[ending]
        with shard.open("rb") as file:
            file.seek(start)
            return file.read(size).decode(errors="replace").strip()

    where = f"{shard}, {key}"
    ending = name or "cls"
    if ending in members:
        found: Any = read(ending)
        return int(found) if found.lstrip("-").isdigit() else found
    if "json" not in members:
        raise UserError(f"{where} has neither .{ending} nor .json: where is its class?")
    field = name or "label"
    try:
        found = json.loads(read("json"))[field]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}.json has no field {field!r}; name it by config.data.kwargs.label"
        ) from error
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise UserError(f"{where}.json: the label {found!r} is neither a number nor a name")
    return found

"""Sources "hf:NAME": image and text sets of the package `datasets` that lie on this machine.

NAME is a folder that `save_to_disk` wrote, or a set in the package's cache, where
`python -m scanmax.data prepare hf:NAME` downloads it to. Reading never asks the network.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from scanmax.data import parquet, text
from scanmax.data.config import DataConfig
from scanmax.data.decoding import read_picture
from scanmax.data.encoded import HELD_OUT_NAMES, ImageOptions, classes_of, image_source
from scanmax.data.network import check_network
from scanmax.data.source import Source, read_options
from scanmax.data.splitting import name_keys
from scanmax.errors import UserError, suggest

PREFIX = "hf:"


@dataclasses.dataclass
class HubImageOptions(ImageOptions):
    """What `config.data.kwargs` may hold of images.

    Attributes:
      subset: Which of a set's configurations, as `datasets` calls them.
    """

    subset: str = ""


@dataclasses.dataclass
class HubTextOptions(parquet.TextOptions):
    """What `config.data.kwargs` may hold of text.

    Attributes:
      subset: Which of a set's configurations, as `datasets` calls them.
    """

    subset: str = ""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Images of a table of `datasets` at some places. The table is mapped from the disk."""

    table: Any
    places: np.ndarray
    labels: np.ndarray
    image: str
    channels: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = int(self.places[number])
        found = self.table[place][self.image]
        if isinstance(found, dict):
            found = found.get("bytes") or found.get("path")
        if isinstance(found, bytes):
            image = read_picture(io.BytesIO(found), self.channels, f"row {place}")
        else:
            image = read_picture(found, self.channels)
        return {"image": image, "label": self.labels[place]}


def open_source(config: DataConfig) -> Source:
    """The source "hf:NAME"; options are those of `HubImageOptions`, or of text `HubTextOptions`."""
    package = import_package()
    name = config.name.removeprefix(PREFIX)
    found = choose_parts(read_set(package, name, config), config)
    parts = list(found.values())
    columns = find_columns(package, parts[0].features, config)
    if columns.text:
        return open_text(config, parts, columns.text)
    options = read_options(HubImageOptions, config)
    values = [value for part in parts for value in part[columns.label][:]]
    labels, names = classes_of(values, columns.names, config.name)
    # As they lie: they are decoded as those of other sources are.
    tables = [part.cast_column(columns.image, package.Image(decode=False)) for part in parts]
    whole = tables[0] if len(tables) == 1 else package.concatenate_datasets(tables)
    held_out = np.repeat([False, True][: len(parts)], [len(part) for part in parts])
    return image_source(
        lambda places: Rows(whole, places, labels, columns.image, options.channels),
        labels,
        lambda seed: name_keys((str(place).encode() for place in range(len(labels))), seed),
        held_out,
        names=names,
        options=options,
        where=config.name,
        how=" and ".join(found) if len(found) == 2 else "",
    )


def open_text(config: DataConfig, parts: list[Any], column: str) -> Source:
    """The documents of a column."""
    options = read_options(HubTextOptions, config)

    def documents(part: Any) -> Iterator[str]:
        table = part.select_columns([column])
        return (row[column] or "" for row in table)

    found = text.Documents(
        config.name,
        # Of a table on the disk it changes when the table does.
        [column, [part._fingerprint for part in parts], [len(part) for part in parts]],
        lambda: documents(parts[0]),
        (lambda: documents(parts[1])) if len(parts) == 2 else None,
    )
    return text.open_documents(found, config, options)


def import_package() -> Any:
    """The package `datasets`.

    Raises:
      UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data sets 'hf:NAME' need the package datasets: pip install 'scanmax[hf]'"
        ) from error
    return datasets


def read_set(package: Any, name: str, config: DataConfig) -> Any:
    """A set on this machine, by folder or by name.

    Raises:
      UserError: it is not there; says which command brings it.
    """
    path = pathlib.Path(config.data_dir, name).expanduser()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        if config.kwargs.get("subset"):
            raise UserError(f"config.data.kwargs.subset is of sets by name; {path} is a folder")
        return package.load_from_disk(str(path))
    if path.is_dir() and name.startswith((".", "/", "~")):
        raise UserError(f"{path} is no folder that `save_to_disk` of the package datasets wrote")
    command = f"python -m scanmax.data prepare {PREFIX}{name}" + (
        f" --data_dir={config.data_dir}" if config.data_dir else ""
    )
    try:
        with offline(package):
            return load(package, name, config)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data set {config.name!r} is neither a folder of save_to_disk nor in the cache of the "
            f"package datasets ({reason}); run: {command}"
        ) from error


def load(package: Any, name: str, config: DataConfig) -> Any:
    """A set by its name; downloads it where that is allowed."""
    return package.load_dataset(
        name, config.kwargs.get("subset") or None, cache_dir=config.data_dir or None
    )


@contextlib.contextmanager
def offline(package: Any) -> Iterator[None]:
    """Keeps the package from asking the network, which takes half a minute to fail."""
    import huggingface_hub.constants

    switches = (package.config, huggingface_hub.constants)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    for switch in switches:
        switch.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for switch, value in zip(switches, before):
            switch.HF_HUB_OFFLINE = value


def prepare(name: str, data_dir: str = "", subset: str = "") -> str:
    """Downloads a set unless it is there; says so.

    Raises:
      UserError: no such set, or no network.
    """
    package = import_package()
    import huggingface_hub.constants

    own = name.removeprefix(PREFIX)
    config = DataConfig(name=name, data_dir=data_dir, kwargs={"subset": subset} if subset else {})
    try:
        read_set(package, own, config)
        return f"{name}: already there"
    except UserError:
        check_network([huggingface_hub.constants.ENDPOINT])
    try:
        load(package, own, config)
    except Exception as error:
        raise UserError(f"cannot download {name!r}: {' '.join(str(error).split())}") from error
    return f"{name}: prepared in {data_dir or package.config.HF_DATASETS_CACHE}"


def choose_parts(found: Any, config: DataConfig) -> dict[str, Any]:
    """The training part and, where there is one, the held-out part, by name.

    Raises:
      UserError: parts that the set has not.
    """
    if not isinstance(found, dict):
        for field in ("train_split", "eval_split"):
            if getattr(config, field):
                raise UserError(f"config.data.{field}: {config.name!r} is one table without parts")
        return {"train": found}
    for field in ("train_split", "eval_split"):
        name = getattr(config, field)
        if name and name not in found:
            raise UserError(f"config.data.{field}={name!r}: {suggest(name, found)}")
    train = config.train_split or ("train" if len(found) > 1 else next(iter(found)))
    if train not in found:
        raise UserError(f"{config.name!r} has no 'train' among {', '.join(found)}; set train_split")
    names = [name for name in HELD_OUT_NAMES if name in found and name != train]
    held_out = config.eval_split or (names[0] if names else "")
    return {part: found[part] for part in (train, held_out) if part}


def find_columns(package: Any, features: Any, config: DataConfig) -> parquet.Columns:
    """The columns of a table, by their kinds, by the options, or by usual names.

    Raises:
      UserError: none of such columns.
    """
    wanted = config.kwargs
    for kind in ("image", "label", "text"):
        if wanted.get(kind) and wanted[kind] not in features:
            raise UserError(
                f"config.data.kwargs.{kind}={wanted[kind]!r}: {suggest(wanted[kind], features)}"
            )

    def first(kind: type, usual: tuple[str, ...], option: str) -> str:
        named = [name for name, feature in features.items() if isinstance(feature, kind)]
        other = [name for name in usual if name in features]
        return wanted.get(option) or next(iter(named + other), "")

    image = first(package.Image, (), "image")
    if image and not wanted.get("text"):
        label = first(package.ClassLabel, parquet.LABEL_NAMES, "label")
        if not label:
            raise UserError(
                f"{config.name!r} has no column of classes among {', '.join(features)}; name it by "
                "config.data.kwargs.label"
            )
        names = tuple(getattr(features[label], "names", None) or ())
        return parquet.Columns(image=image, label=label, names=names)
    found = wanted.get("text") or next((n for n in parquet.TEXT_NAMES if n in features), "")
    if not found:
        raise UserError(
            f"{config.name!r} has neither images nor text among {', '.join(features)}; name a "
            "column by config.data.kwargs.text"
        )
    return parquet.Columns(text=found)

"""The source "pairs": images and what is said of each, out of arrays, a folder or tar shards.

    pairs.npz                          image [N, Y, X, C], tokens [N, T]
    pairs/image.npy pairs/tokens.npy   the same, read from the disk as they are asked for
    cats/a.jpg cats/a.txt ...          a caption beside each image, in any folders below
    train-000.tar: 1.jpg 1.txt ...     the same in shards, as webdataset has them

Of arrays `eval_image` and `eval_tokens` are the held-out part; `label` (and `eval_label`), the
class of each image, and `class_tokens` [C, T] or [C, P, T], captions of each class, let a run say
how well it names images. Captions become tokens here, ended and padded by zeros.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scanmax.data import arrays, webdataset
from scanmax.data.config import DataConfig
from scanmax.data.decoding import SUFFIXES
from scanmax.data.encoded import Encoded, check_channels, find_shards
from scanmax.data.source import IMAGENET_NORMALISATION, Source, find_data, read_options
from scanmax.data.splitting import name_keys, stratified
from scanmax.data.tokenization import Tokenizer, make_tokenizer
from scanmax.errors import UserError, suggest
from scanmax.fields import ranged

PARTS = ("image", "tokens", "label")
NAMES = (*PARTS, *(f"eval_{name}" for name in PARTS), "class_tokens", "class_names")
WHAT = "image.npy and tokens.npy, a .npz or .safetensors file, images with .txt, or .tar shards"


@dataclasses.dataclass
class Options:
    """What `config.data.kwargs` may hold.

    Attributes:
      held_out: Share that is held out where nothing says which part is.
      split_seed: Decides which; the seed of a run does not, so that seeds can be compared.
      channels: Of captioned images, 1, 3 or 4.
      tokenizer: Of captions, "bytes" or the path of a tokenizer.json.
      end: The tokenizer's token that ends a caption; "" looks for the usual ones.
      length: Tokens that are kept of a caption, its end included.
      vocab_size: Tokens that arrays may hold; 0 is as many as they do.
    """

    held_out: float = ranged(0.2, "(0, 1)")
    split_seed: int = ranged(0, "[0, inf)")
    channels: int = ranged(3, "[1, 4]")
    tokenizer: str = "bytes"
    end: str = ""
    length: int = ranged(64, "[2, inf)")
    vocab_size: int = ranged(0, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class Paired:
    """Images, the tokens of each beside it; a label where there is one."""

    images: Sequence[Any]
    tokens: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        label = -1 if self.labels is None else self.labels[number]
        image = self.images[number]["image"]
        return {"image": image, "tokens": self.tokens[number], "label": np.int32(label)}


def open_source(config: DataConfig) -> Source:
    """The source "pairs"; options are those of `Options`."""
    path = find_data(config, WHAT).absolute()
    if (path.is_file() and path.suffix != ".tar") or (path / "image.npy").is_file():
        try:
            found = arrays.read_files(path, NAMES)
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"config.data.data_dir={str(path)!r} cannot be read: {reason}"
            ) from error
        return from_arrays(found, config, str(path))
    return from_captions(path, config)


def from_arrays(data: Mapping[str, Any], config: DataConfig, where: str = "data") -> Source:
    """A source of arrays in memory.

    Args:
      data: arrays by the names of `NAMES`.
      config: of which `kwargs` are `Options`.
      where: whose arrays they are, as messages name it.

    Raises:
      UserError: arrays that are no images and tokens, or do not fit each other.
    """
    options = read_options(Options, config)
    if not isinstance(data, Mapping):
        raise UserError(f"{where} must be arrays by name: {', '.join(NAMES)}")
    unknown = sorted(set(data) - set(NAMES))
    if unknown:
        raise UserError(f"{where} holds {unknown[0]!r}; {suggest(unknown[0], NAMES)}")
    found = {name: np.asanyarray(value) for name, value in data.items()}
    has_part = {name for name in found if name.startswith("eval_")}
    for name in ("image", "tokens", *(("eval_image", "eval_tokens") if has_part else ())):
        if name not in found:
            raise UserError(f"{where} has no {name!r}; arrays are {', '.join(NAMES)}")
    names = tuple(str(name) for name in found.get("class_names", ()))
    held = ("eval_",) if has_part else ()
    for part in ("", *held):
        tokens = found[f"{part}tokens"]
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(
                f"{where}: {part}tokens is {tokens.dtype} {list(tokens.shape)}: expected integers "
                "[N, T], what is said of each image"
            )
        arrays.check_images(found[f"{part}image"], tokens, f"{where}: {part}image")
        if f"{part}label" in found:
            arrays.check_labels(found[f"{part}label"], names, f"{where}: {part}label")
    shapes = {(*found[f"{part}image"].shape[1:], 1)[:3] for part in ("", *held)}
    lengths = {found[f"{part}tokens"].shape[1] for part in ("", *held)}
    if len(shapes) > 1 or len(lengths) > 1:
        raise UserError(f"{where}: both parts must hold images of one size, and tokens of one")
    (shape,), (length,) = shapes, lengths
    rows = len(found["image"])
    if has_part:
        places = {"": np.arange(rows), "eval_": np.arange(len(found["eval_image"]))}
        how = "eval_image"
    else:
        keys = np.random.default_rng(options.split_seed).random(rows)
        places, how = split(keys, options)
    parts = {}
    for part, kept in places.items():
        own = part if has_part else ""
        image, tokens, label = (found.get(f"{own}{name}") for name in PARTS)
        filler = np.zeros(len(image), np.int32)
        parts[part] = Paired(
            arrays.Rows(image, filler, kept),
            np.asarray(tokens[kept], np.int32),
            None if label is None else np.asarray(label[kept], np.int32),
        )
    return source_of(
        parts[""],
        parts["eval_"],
        shape=shape,
        length=length,
        vocab_size=options.vocab_size,
        names=names,
        class_tokens=found.get("class_tokens"),
        where=where,
        how=how,
    )


def from_captions(root: pathlib.Path, config: DataConfig) -> Source:
    """Images with a text beside each, in a folder or in tar shards."""
    options = read_options(Options, config)
    check_channels(options.channels)
    if options.vocab_size:
        raise UserError("config.data.kwargs.vocab_size is of arrays; a tokenizer has its own")
    tokenizer = make_tokenizer(options.tokenizer, options.end)
    has_shards = root.is_file() or any(root.rglob("*.tar"))
    shards, held_out, how = find_shards(root, ".tar") if has_shards else ([], [], "")
    found = list(in_shards(shards) if has_shards else in_folder(root))
    if not found:
        raise UserError(f"{root} holds no image ({', '.join(SUFFIXES)}) with a .txt beside it")
    files = tuple(sorted({row[1] for row in found}))
    numbers = {file: number for number, file in enumerate(files)}
    tokens = np.stack([caption(row[4], tokenizer, options.length) for row in found])
    images = Encoded(
        files=files,
        file=np.asarray([numbers[row[1]] for row in found]),
        start=np.asarray([row[2] for row in found]),
        size=np.asarray([row[3] for row in found]),
        labels=np.zeros(len(found), np.int32),
        channels=options.channels,
    )
    if how:
        is_held = dict(zip(map(str, shards), held_out))
        mask = np.asarray([is_held[row[1]] for row in found])
        places = {"": np.flatnonzero(~mask), "eval_": np.flatnonzero(mask)}
    else:
        keys = name_keys((os.fsencode(row[0]) for row in found), options.split_seed)
        places, how = split(keys, options)
    train, held = (Paired(images.at(at), tokens[at]) for at in places.values())
    return source_of(
        train,
        held,
        shape=(None, None, options.channels),
        length=options.length,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer,
        where=str(root),
        how=how,
    )


def in_shards(shards: Sequence[pathlib.Path]) -> Iterator[tuple[str, str, int, int, str]]:
    """(name, file, first byte, bytes, caption) of each image with a .txt."""
    for shard in shards:
        with shard.open("rb") as file:
            for key, members in webdataset.samples(shard):
                image = webdataset.find_image(members, "")
                if image is None or "txt" not in members:
                    continue
                start, size = members["txt"]
                file.seek(start)
                text = file.read(size).decode(errors="replace")
                yield f"{shard.name}/{key}", str(shard), *members[image], text


def in_folder(root: pathlib.Path) -> Iterator[tuple[str, str, int, int, str]]:
    """(name, file, first byte, bytes, caption) of each image with a .txt of its name beside it."""
    for path in sorted(root.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower() not in SUFFIXES or not text.is_file():
            continue
        told = text.read_text(errors="replace")
        yield str(path.relative_to(root)), str(path), 0, path.stat().st_size, told


def caption(text: str, tokenizer: Tokenizer, length: int) -> np.ndarray:
    """[length] tokens of a text, cut, ended and padded."""
    tokens = np.append(tokenizer.encode(text.strip())[: length - 1], tokenizer.end)
    return np.pad(tokens.astype(np.int32), (0, length - len(tokens)))


def split(keys: np.ndarray, options: Options) -> tuple[dict[str, np.ndarray], str]:
    """Places of both parts, and what says which is which."""
    mask = stratified(np.zeros(len(keys), np.int32), keys, options.held_out)
    told = f"{options.held_out:g} held out by split_seed {options.split_seed}"
    return {"": np.flatnonzero(~mask), "eval_": np.flatnonzero(mask)}, told


def source_of(
    train: Paired,
    held_out: Paired,
    *,
    shape: tuple[int | None, ...],
    length: int,
    vocab_size: int,
    where: str,
    how: str,
    names: tuple[str, ...] = (),
    class_tokens: np.ndarray | None = None,
    tokenizer: Tokenizer | None = None,
) -> Source:
    """The source of two parts.

    Raises:
      UserError: captions of classes that do not fit, or tokens beyond the vocabulary.
    """
    labels = [part.labels for part in (train, held_out) if part.labels is not None]
    classes = len(names) or 1 + max((int(label.max()) for label in labels), default=-1)
    told = [train.tokens, held_out.tokens]
    if class_tokens is not None:
        captions = class_tokens[:, None] if class_tokens.ndim == 2 else class_tokens
        if captions.ndim != 3 or captions.shape[-1] != length or len(captions) < classes:
            raise UserError(
                f"{where}: class_tokens is {list(class_tokens.shape)}: expected [C, T] or "
                f"[C, P, T] with T={length} and C at least {classes}"
            )
        class_tokens, classes = np.asarray(captions, np.int32), len(captions)
        told.append(class_tokens)
    low, high = min(t.min() for t in told), max(t.max() for t in told)
    vocab_size = vocab_size or int(high) + 1
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise UserError(f"{where} holds token {bad}, outside the vocabulary of {vocab_size}")
    mean, std = IMAGENET_NORMALISATION if shape[-1] == 3 else ((0.5,), (0.5,))
    return Source(
        kind="image_text",
        train=train,
        eval=held_out,
        shape=shape,
        num_classes=classes,
        class_names=names or tuple(str(place) for place in range(classes)),
        mean=mean,
        std=std,
        vocab_size=vocab_size,
        text_length=length,
        class_tokens=class_tokens,
        tokenizer=tokenizer,
        decode=str if tokenizer is None else lambda tokens: tokenizer.decode(tokens[tokens > 0]),
        notes=(f"{len(train)} training and {len(held_out)} held-out pairs of {where} ({how})",),
    )

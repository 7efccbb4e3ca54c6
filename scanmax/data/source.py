"""A source of data: random-access sequences of examples, and what is known of them.

An image example is {"image": uint8 [Y, X, C], "label": int}; a token example is
{"tokens": int32 [T + 1]}, one of labelled tokens {"tokens", "targets": int32 [T]}, where -1
asks nothing, one of labelled text {"tokens": int32 [T], "label": int}, a pair of image and text
{"image", "tokens": int32 [T], "label": int}, -1 for no class, and a series {"series": float32
[T, C], "target": float32}.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scanmax.data.config import DataConfig
from scanmax.data.tokenization import Tokenizer
from scanmax.errors import UserError, suggest
from scanmax.fields import check_fields

IMAGENET_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
      kind: "image", "image_text", "tokens", "labelled_tokens", "labelled_text" or "series".
      train: Training examples by index.
      eval: Held-out examples by index.
      shape: Shape of an image, None where it varies; (T + 1,) of tokens; of what a task shows.
      num_classes: Classes, or the size of the vocabulary.
      vocab_size: Size of the vocabulary where text has classes or images besides.
      text_length: Tokens of a text that stands beside an image.
      class_tokens: [C, P, T], captions of each class of such images; None where nobody told.
      class_names: Names of the classes.
      mean: Mean per channel of intensities in [0, 1].
      std: Deviation per channel.
      baselines: Computes figures of simple models on the held-out part, by name.
      decode: Turns tokens into text.
      tokenizer: Turns text into tokens, `scanmax.data.tokenization`; None of what is no text.
      separator: Token that ends a document, where rows carry the `segment_ids` that keep
        documents apart; None for rows without.
      bytes_per_token: Bytes of the held-out text for each of its tokens.
      notes: Lines that tell a user what was found, said when a run starts.
    """

    kind: str
    train: Sequence[Any]
    eval: Sequence[Any]
    shape: tuple[int | None, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    baselines: Callable[[], dict[str, float]] = dict
    decode: Callable[[np.ndarray], str] = str
    tokenizer: Tokenizer | None = None
    separator: int | None = None
    bytes_per_token: float = 1.0
    vocab_size: int = 0
    text_length: int = 0
    class_tokens: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def read_options(kind: type[Any], config: DataConfig) -> Any:
    """The options that a source takes, a dataclass, filled from `config.data.kwargs`.

    Raises:
      UserError: an option that it has not, or a value that cannot be.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in config.kwargs:
        if name not in known:
            raise UserError(f"config.data.kwargs.{name}: {suggest(name, known)}")
    options = kind(**config.kwargs)
    check_fields(options, "config.data.kwargs")
    return options


def find_data(config: DataConfig, what: str) -> pathlib.Path:
    """What `config.data.data_dir` names, for sources that read a user's own files.

    Raises:
      UserError: nothing is named, nothing is there, or parts are asked for by TFDS's notation.
    """
    for field in ("train_split", "eval_split"):
        if getattr(config, field):
            raise UserError(
                f"config.data.{field}={getattr(config, field)!r} is of TFDS; {config.name!r} "
                "holds out what config.data.kwargs.held_out says"
            )
    if not config.data_dir:
        raise UserError(f"config.data.name={config.name!r} reads config.data.data_dir: name {what}")
    path = pathlib.Path(config.data_dir).expanduser()
    if not path.exists():
        parent = path.absolute().parent
        near = [str(path.parent / found.name) for found in parent.glob("*")]
        hint = suggest(str(path), near) if near else f"there is no {parent} either"
        raise UserError(f"config.data.data_dir={config.data_dir!r} is not there; {hint}")
    return path

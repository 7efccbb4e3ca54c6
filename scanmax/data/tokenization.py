"""Tokens of text and back: bytes, or any tokenizer of the package `tokenizers`."""

import dataclasses
import functools
import pathlib
from typing import Any, Protocol

import numpy as np

from scanmax.errors import UserError, suggest

# Names under which tokenizers keep the token that ends a document, the most usual first.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


class Tokenizer(Protocol):
    """What turns text into tokens and back.

    Attributes:
      vocab_size: number of tokens.
      end: the token that ends a document; None where there is none.
    """

    vocab_size: int
    end: int | None

    def encode(self, text: str) -> np.ndarray:
        """[L] tokens, without an end."""

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens; ends are left out."""

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` makes it again from, for JSON."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """A byte is a token; with `ends` token 256 ends a document.

    >>> Bytes().decode(Bytes().encode("naïve"))
    'naïve'
    """

    ends: bool = False

    @property
    def vocab_size(self) -> int:
        return 256 + self.ends

    @property
    def end(self) -> int | None:
        return 256 if self.ends else None

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """What is no UTF-8 becomes the replacement character."""
        tokens = np.asarray(tokens)
        return tokens[tokens < 256].astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "bytes", "ends": self.ends}


class FromFile:
    """A tokenizer of the package `tokenizers`, read from its tokenizer.json.

    Raises:
      UserError: the package is not installed, the file cannot be read, or it names no token that
        ends a document.
    """

    def __init__(self, text: str, end: str = "", where: str = "tokenizer.json"):
        self._text, self._tokenizer = text, _read(text, where)
        self.vocab_size = self._tokenizer.get_vocab_size()
        names = (end,) if end else ENDS
        found = [
            place for name in names if (place := self._tokenizer.token_to_id(name)) is not None
        ]
        if not found:
            known = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
            raise UserError(
                f"{where}: no token {' or '.join(map(repr, names))} ends a document; name it by "
                f"config.data.kwargs.end: {suggest(names[0], known)}"
            )
        self.end = found[0]

    def encode(self, text: str) -> np.ndarray:
        # Special tokens that a tokenizer puts around a sentence are no part of a document.
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        kept = [int(token) for token in tokens if token != self.end]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def to_dict(self) -> dict[str, Any]:
        end = self._tokenizer.id_to_token(self.end)
        return {"kind": "tokenizers", "end": end, "text": self._text}


def _read(text: str, where: str) -> Any:
    try:
        from tokenizers import Tokenizer as Known
    except ImportError as error:
        raise UserError(
            f"{where} needs the package tokenizers: pip install 'scanmax[text]'"
        ) from error
    try:
        return Known.from_str(text)
    # The package raises plain Exception.
    except Exception as error:
        raise UserError(f"{where} is no tokenizer of the package tokenizers: {error}") from error


def make_tokenizer(name: str, end: str = "") -> Tokenizer:
    """A tokenizer by what `config.data.kwargs.tokenizer` names.

    Args:
      name: "bytes", or the path of a tokenizer.json.
      end: the token that ends a document; "" looks for one of ENDS.

    Raises:
      UserError: no such file, or one that cannot serve.
    """
    if name == "bytes":
        if end:
            raise UserError(
                f"config.data.kwargs.end={end!r} is of a tokenizer.json; bytes have 256"
            )
        return Bytes(ends=True)
    path = pathlib.Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"config.data.kwargs.tokenizer={name!r}: neither 'bytes' nor a tokenizer.json that can "
            f"be read ({error})"
        ) from error
    return FromFile(text, end, str(path))


@functools.lru_cache(maxsize=8)
def _of_file(text: str, end: str) -> FromFile:
    return FromFile(text, end)


def from_dict(told: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_dict` told of.

    Raises:
      UserError: it is of another version, or its package is not installed.
    """
    if told["kind"] == "bytes":
        return Bytes(told["ends"])
    if told["kind"] == "tokenizers":
        return _of_file(told["text"], told["end"])
    raise UserError(f"a tokenizer {told['kind']!r}: written by another version of scanmax")

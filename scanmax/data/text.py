"""The source "text": your own files of text, as rows of tokens for a language model.

    book.txt                  one document: its last part is held out
    DIR/a.txt DIR/b/c.md      each file a document
    pages.jsonl               each line {"text": "..."} a document

A share of the documents is held out, decided by a hash of each. Documents lie one behind another,
each with a token at its end; rows are cut from that, and "segment_ids" keep the documents of a row
apart. The tokens are kept in the user's cache, read again while no file has changed, and
memory-mapped: a large corpus is tokenised once and never held.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from scanmax.data.cache import keep_folder, stamps_of
from scanmax.data.config import DataConfig
from scanmax.data.corpus import LooseWindows, Windows
from scanmax.data.source import Source, find_data, read_options
from scanmax.data.splitting import stratified
from scanmax.data.tokenization import Tokenizer, make_tokenizer
from scanmax.errors import UserError
from scanmax.fields import ranged

SUFFIXES = (".txt", ".md", ".rst", ".jsonl")
WHAT = f"a file or folder of text ({', '.join(SUFFIXES)})"
PARTS = ("train", "held_out")


@dataclasses.dataclass
class CorpusOptions:
    """What `config.data.kwargs` may hold of documents from anywhere.

    Attributes:
      tokenizer: "bytes", or the path of a tokenizer.json of the package `tokenizers`.
      end: the tokenizer's token that ends a document; "" looks for the usual ones.
      held_out: Share of the documents that is held out; of a single one its last part.
      packed: Whether rows carry the `segment_ids` that keep documents apart.
    """

    tokenizer: str = "bytes"
    end: str = ""
    held_out: float = ranged(0.1, "(0, 1)")
    packed: bool = True


@dataclasses.dataclass
class Options(CorpusOptions):
    """What `config.data.kwargs` may hold of files.

    Attributes:
      suffixes: Endings of the files that a folder is searched for.
    """

    suffixes: tuple[str, ...] = SUFFIXES


@dataclasses.dataclass(frozen=True)
class Documents:
    """Where documents come from.

    Attributes:
      where: as messages name it.
      stamps: what changes when they do, for JSON.
      train: gives the documents one after another; those of both parts where `held_out` is None.
      held_out: gives those of the held-out part.
    """

    where: str
    stamps: Sequence[Any]
    train: Callable[[], Iterable[str]]
    held_out: Callable[[], Iterable[str]] | None = None


@dataclasses.dataclass(frozen=True)
class Mapped:
    """Numbers of a file, [L]; opened anew in a worker process, not sent to it."""

    file: pathlib.Path
    kind: str

    def __len__(self) -> int:
        return self.file.stat().st_size // np.dtype(self.kind).itemsize

    def __getitem__(self, places: slice) -> np.ndarray:
        return self._values[places]

    @functools.cached_property
    def _values(self) -> np.ndarray:
        return np.memmap(self.file, self.kind, mode="r") if len(self) else np.zeros(0, self.kind)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "kind": self.kind}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokens of both parts, and what there was of each.

    Attributes:
      tokens: part -> [L] tokens.
      documents: part -> how many.
      text_bytes: part -> bytes of UTF-8, ends not counted.
    """

    tokens: dict[str, Mapped]
    documents: dict[str, int]
    text_bytes: dict[str, int]


def open_source(config: DataConfig) -> Source:
    """The source "text"; options are those of `Options`."""
    options = read_options(Options, config)
    path = find_data(config, WHAT).absolute()
    files = list_files(path, options.suffixes)
    documents = Documents(str(path), stamps_of(files), lambda: all_of(files))
    return open_documents(documents, config, options)


def open_documents(documents: Documents, config: DataConfig, options: CorpusOptions) -> Source:
    """A source of documents from anywhere.

    Raises:
      UserError: a part holds fewer tokens than a row.
    """
    tokenizer = make_tokenizer(options.tokenizer, options.end)
    corpus = read_corpus(documents, tokenizer, options.held_out)
    length = config.sequence_length
    for part, told in zip(PARTS, ("training", "held-out")):
        if len(corpus.tokens[part]) <= length:
            raise UserError(
                f"config.data.sequence_length={length}: {documents.where} has "
                f"{len(corpus.tokens[part])} tokens in its {told} part"
            )
    counts = ", ".join(
        f"{corpus.documents[part]} {told} of {len(corpus.tokens[part]):,} tokens"
        for part, told in zip(PARTS, ("training documents", "held-out"))
    )
    if documents.held_out is not None:
        how = "parts of its own"
    else:
        is_book = corpus.documents == {"train": 1, "held_out": 1}
        how = "its last part" if is_book else "a hash decides"
    return Source(
        kind="tokens",
        train=LooseWindows(corpus.tokens["train"], length),
        eval=Windows(corpus.tokens["held_out"], length),
        shape=(length + 1,),
        num_classes=tokenizer.vocab_size,
        decode=tokenizer.decode,
        tokenizer=tokenizer,
        separator=tokenizer.end if options.packed else None,
        bytes_per_token=corpus.text_bytes["held_out"] / len(corpus.tokens["held_out"]),
        notes=(f"{counts}, {tokenizer.vocab_size:,} kinds, of {documents.where} ({how})",),
    )


def list_files(path: pathlib.Path, suffixes: Sequence[str]) -> list[pathlib.Path]:
    """The files of text, sorted.

    Raises:
      UserError: there is none.
    """
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise UserError(f"{path} holds no file of text ({', '.join(suffixes)})")
    return files


def documents_of(file: pathlib.Path) -> Iterator[str]:
    """The documents of a file: itself, or its lines if it is a .jsonl.

    Raises:
      UserError: a file that is no text, or a line without one; it names both.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            if file.suffix.lower() != ".jsonl":
                yield lines.read()
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text_of(line, f"{file}:{number}")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8: {error}") from error


def _text_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from error
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{where} has no \'text\': a line is {{"text": "..."}}')
    return text


def read_corpus(documents: Documents, tokenizer: Tokenizer, held_out: float) -> Corpus:
    """The corpus of documents: the kept one while their stamps are the same, else a new one."""
    what = json.dumps([documents.where, documents.stamps, tokenizer.to_dict(), held_out])
    folder = keep_folder(
        "text-" + hashlib.sha256(what.encode()).hexdigest()[:24],
        lambda place: write_corpus(place, documents, tokenizer, held_out),
        f"the tokens of {documents.where}",
    )
    told = json.loads((folder / "told.json").read_text())
    tokens = {part: Mapped(folder / f"{part}.bin", told["kind"]) for part in PARTS}
    return Corpus(tokens, told["documents"], told["text_bytes"])


def write_corpus(
    folder: pathlib.Path, documents: Documents, tokenizer: Tokenizer, held_out: float
) -> None:
    """Writes the tokens of both parts, and what there is of them as told.json."""
    kind = "uint16" if tokenizer.vocab_size <= 2**16 else "int32"
    counts, text_bytes = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    with contextlib.ExitStack() as stack:
        sinks = {part: stack.enter_context((folder / f"{part}.bin").open("wb")) for part in PARTS}
        for part, text in parted(documents, held_out):
            sinks[part].write(np.append(tokenizer.encode(text), tokenizer.end).astype(kind))
            counts[part] += 1
            text_bytes[part] += len(text.encode())
    told = {"kind": kind, "documents": counts, "text_bytes": text_bytes}
    (folder / "told.json").write_text(json.dumps(told))


def parted(documents: Documents, held_out: float) -> Iterator[tuple[str, str]]:
    """(part, document) of every document; empty ones are left out."""
    if documents.held_out is not None:
        for part, give in zip(PARTS, (documents.train, documents.held_out)):
            yield from ((part, text) for text in give() if text.strip())
        return
    keys = [
        hashlib.blake2b(text.encode(), digest_size=8).digest()
        for text in documents.train()
        if text.strip()
    ]
    texts = (text for text in documents.train() if text.strip())
    if len(keys) == 1:
        # A single book: what comes last is held out, from the start of a line on.
        (text,) = texts
        cut = int(len(text) * (1 - held_out))
        cut = text.rfind("\n", 0, cut) + 1 or cut
        yield from zip(PARTS, (text[:cut], text[cut:]))
        return
    is_held = stratified(
        np.zeros(len(keys), np.int32), np.frombuffer(b"".join(keys), np.uint64), held_out
    )
    for text, held in zip(texts, is_held):
        yield PARTS[int(held)], text


def all_of(files: Sequence[pathlib.Path]) -> Iterator[str]:
    """The documents of all files."""
    return (text for file in files for text in documents_of(file))

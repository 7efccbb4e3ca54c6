"""The source "bytes": Python's own documentation topics as a stream of bytes, without a download.

Topics include one another, so every paragraph is kept where it first appears; what is held out is
then nowhere in the training part. The text is cut into blocks, of which every tenth is held out. It
is that of the running Python, and figures change a little from one version to the next.
"""

import dataclasses
import functools

import numpy as np

from scanmax.data import ngram
from scanmax.data.config import DataConfig
from scanmax.data.source import Source
from scanmax.data.tokenization import Bytes
from scanmax.errors import UserError

BLOCK_BYTES = 4096
HELD_OUT_EVERY = 10


@functools.cache
def read_parts() -> tuple[np.ndarray, np.ndarray]:
    """The training and the held-out part, [L] uint8 each."""
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].strip().split("\n\n"):
            # The same words count as the same paragraph, however they are wrapped.
            paragraphs.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    block: list[bytes] = []
    blocks = 0
    for paragraph in paragraphs.values():
        block.append(paragraph.encode() + b"\n\n")
        if sum(map(len, block)) >= BLOCK_BYTES:
            parts[blocks % HELD_OUT_EVERY == HELD_OUT_EVERY - 1].extend(block)
            block, blocks = [], blocks + 1
    parts[0].extend(block)
    train, held_out = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    return train, held_out


@dataclasses.dataclass(frozen=True)
class Windows:
    """Consecutive windows of length + 1 tokens; the last token of one is the first of the next.

    Every byte but the first is a target exactly once, up to the last whole window.
    """

    tokens: np.ndarray
    length: int

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = index * self.length
        return {"tokens": self.tokens[start : start + self.length + 1].astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class LooseWindows:
    """Windows that a random part of a window moves forward, so that epochs cut the text anew."""

    tokens: np.ndarray
    length: int

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        # Twice the room; the transform draws where in it the window starts.
        start = min(index * self.length, len(self.tokens) - self.length - 1)
        return {"tokens": self.tokens[start : start + 2 * self.length].astype(np.int32)}


def open_source(config: DataConfig) -> Source:
    """The source "bytes"; it has no options."""
    if config.kwargs:
        raise UserError(f"config.data.kwargs={config.kwargs}: 'bytes' has no options")
    train, held_out = read_parts()
    length = config.sequence_length
    if not 1 <= length < len(held_out):
        raise UserError(
            f"config.data.sequence_length={length} must be between 1 and {len(held_out) - 1}"
        )
    evaluation = Windows(held_out, length)
    targets = len(evaluation) * length

    def baselines() -> dict[str, float]:
        model = ngram.fit(train, order=3)
        return {"order-3 byte model, bits per byte": model.bits_per_byte(held_out[: targets + 1])}

    return Source(
        kind="tokens",
        train=LooseWindows(train, length),
        eval=evaluation,
        shape=(length + 1,),
        num_classes=Bytes().vocab_size,
        baselines=baselines,
        decode=Bytes().decode,
        tokenizer=Bytes(),
    )

"""The tasks of `sequence_tasks` as data of a run, every example drawn when it is asked for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from scanmax.data import sequence_tasks
from scanmax.data.config import DataConfig
from scanmax.data.source import Source
from scanmax.errors import UserError, suggest

# Name -> (what draws it, its options, kind of data). `sequence_length` is every task's length.
TASKS: dict[str, tuple[Callable, dict[str, int], str]] = {
    "mqar": (
        sequence_tasks.associative_recall,
        {"pairs": 8, "vocab_size": 256},
        "labelled_tokens",
    ),
    "selective_copying": (
        sequence_tasks.selective_copying,
        {"items": 4, "vocab_size": 16},
        "labelled_tokens",
    ),
    "induction_heads": (sequence_tasks.induction_heads, {"vocab_size": 16}, "labelled_tokens"),
    "copy_memory": (sequence_tasks.copy_memory, {"items": 10, "vocab_size": 10}, "labelled_tokens"),
    "reversal": (sequence_tasks.reversal, {"vocab_size": 16}, "labelled_tokens"),
    "reconstruction": (sequence_tasks.reconstruction, {"vocab_size": 16}, "labelled_tokens"),
    "adding": (sequence_tasks.adding, {}, "series"),
    "word_order": (sequence_tasks.word_order, {"span": 0, "vocab_size": 16}, "labelled_text"),
}
FIELDS = {
    "labelled_tokens": ("tokens", "targets"),
    "labelled_text": ("tokens", "label"),
    "series": ("series", "target"),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Example i, a pure function of (seed, i)."""

    draw: Callable[..., tuple[np.ndarray, np.ndarray]]
    fields: tuple[str, str]
    examples: int
    seed: int

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        drawn = self.draw(np.random.default_rng((self.seed, index)), 1)
        return {name: values[0] for name, values in zip(self.fields, drawn)}


def open_source(config: DataConfig) -> Source:
    """A source of TASKS; kwargs: those of the task, examples, eval_examples."""
    draw, own, kind = TASKS[config.name]
    options: dict[str, Any] = {"examples": 32768, "eval_examples": 512, **own}
    for name, value in config.kwargs.items():
        if name not in options:
            raise UserError(f"config.data.kwargs.{name}: {suggest(name, options)}")
        if not isinstance(value, int) or value < min(1, options[name]):
            raise UserError(f"config.data.kwargs.{name}={value!r} must be a positive integer")
        options[name] = value
    sizes = options.pop("examples"), options.pop("eval_examples")
    drawn = functools.partial(draw, length=config.sequence_length, **options)
    train, held_out = (Drawn(drawn, FIELDS[kind], size, seed) for seed, size in enumerate(sizes))
    try:
        example = train[0]
    except ValueError as error:
        raise UserError(f"config.data of {config.name!r}: {error}") from error
    return Source(
        kind=kind,
        train=train,
        eval=held_out,
        shape=example[FIELDS[kind][0]].shape,
        num_classes=2 if kind == "labelled_text" else options.get("vocab_size", 1),
        vocab_size=options["vocab_size"] if kind == "labelled_text" else 0,
    )

"""What a logger is: the places beside `metrics.jsonl` to which a run tells its numbers."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scanmax.files import write_whole


@dataclasses.dataclass
class Logger:
    """Base of loggers: a dataclass whose fields are its options; the run calls the methods.

    A logger of one's own is such a class that can be imported, named by its module and its name:
    `config.log.to=("tensorboard", ("mine.slack:Slack", {"channel": "#runs"}))`. What fails in it is
    told once, and the run goes on without it; `metrics.jsonl` holds every row.

    Example:
      >>> @dataclasses.dataclass
      ... class Printed(Logger):
      ...     prefix: str = ""
      ...     def write(self, step, split, metrics):
      ...         print(self.prefix, step, split, metrics)
      >>> Printed("run").write(3, "eval", {"loss": 0.5})
      run 3 eval {'loss': 0.5}
    """

    def open(self, workdir: pathlib.Path, config: Mapping[str, Any], start: int) -> None:
        """Called once before the rows.

        Args:
          workdir: the run's folder; it has the run's name.
          config: the config as a dict of plain values.
          start: the step that the run resumes from, 0 for a new one. Rows beyond it that an earlier
            part of the run told come again.
        """

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Called with each row of "train" and "eval"."""

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Called with a picture [Y, X, 3], uint8: the held-out examples that the report shows."""

    def text(self, step: int, name: str, text: str) -> None:
        """Called with a text: what a language model says after a prompt."""

    def close(self, failed: bool = False) -> None:
        """Called once at the end, after an error too.

        Args:
          failed: whether an error ends the run.
        """


def kept_id(workdir: pathlib.Path, name: str, fresh: Callable[[], str]) -> str:
    """The id by which a service knows the run: that of its first part, else a fresh one, kept."""
    path = workdir / "loggers.json"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if name not in known:
        known[name] = fresh()
        write_whole(path, json.dumps(known) + "\n")
    return str(known[name])


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A tree of plain values with its paths as keys.

    >>> flat({"optim": {"lr": 0.1, "freeze": []}, "seed": 0})
    {'optim.lr': 0.1, 'optim.freeze': [], 'seed': 0}
    """
    found = {}
    for name, value in config.items():
        here = f"{path}.{name}" if path else name
        found |= flat(value, here) if isinstance(value, Mapping) and value else {here: value}
    return found

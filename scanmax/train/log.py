"""What people look at while a run goes: a progress bar or plain lines, JSONL, the loggers."""

import contextlib
import errno
import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.config import Config
from scanmax.train.loggers import Logger, make_loggers

# Order in which metrics are shown; what is not named here is written and not shown.
SHOWN = (
    "loss",
    "accuracy",
    "knn_accuracy",
    "probe_accuracy",
    "bits_per_byte",
    "examples_per_second",
    "utilization",
    "memory_gib",
)
# Without a terminal a line of training metrics is shown at most this often; files get every row.
LINE_SECONDS = 2.0


class Log:
    """Writes metrics to `metrics.jsonl` and to loggers, and shows progress.

    A row is {"step": .., "split": "train" or "eval", "time": .., name: value, ...}. Rows beyond the
    step that a run resumes from are dropped first: a curve never runs twice over the same steps.
    A logger that fails is left out from then on; a full disk ends the run, as it would anyway.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        start: int,
        total: int,
        stream: TextIO | None = None,
        loggers: Sequence[Logger] = (),
        config: Mapping[str, Any] | None = None,
    ):
        self._stream = sys.stderr if stream is None else stream
        path = pathlib.Path(workdir) / "metrics.jsonl"
        _drop_rows_after(path, start)
        try:
            # Without a buffer: what a full disk refuses is told here, and not again at the end.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"cannot write {error.filename or path}: {error.strerror}") from error
        self._total, self._start, self._began = total, start, time.monotonic()
        self._next_line = 0.0
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=start, unit="step", file=self._stream, dynamic_ncols=True
            )
        self._loggers = list(loggers)
        self._tell(start, "open", pathlib.Path(workdir), config or {}, start)

    def be_quiet(self) -> None:
        """Writes to files only from now on."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._stream = io.StringIO()

    def progress(self, step: int) -> None:
        """Moves the bar; without a terminal nothing."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Writes one row everywhere."""
        metrics = {name: float(value) for name, value in metrics.items()}
        row = {"step": step, "split": split, "time": time.time(), **metrics}
        if not os.path.exists(self._file.name):
            # What is written to it goes nowhere.
            raise UserError(f"{self._file.name} was removed under the run, seen at step {step}")
        line = (json.dumps(row) + "\n").encode()
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritten(step, error) from error
        self._tell(step, "write", step, split, metrics)
        shown = {name: f"{metrics[name]:.4g}" for name in SHOWN if name in metrics}
        if self._bar is not None and split == "train":
            short = {"examples_per_second": "ex/s", "accuracy": "acc"}
            self._bar.set_postfix({short.get(name, name): text for name, text in shown.items()})
            return
        if split == "train" and step < self._total and time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_SECONDS
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        eta = self._eta(step) if split == "train" else ""
        self.say(f"step {step}/{self._total}  {split:<5}  {text}  {eta}".rstrip())

    def say(self, line: str) -> None:
        """Shows a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Gives the loggers a picture [Y, X, 3], uint8."""
        self._tell(step, "image", step, name, pixels)

    def text(self, step: int, name: str, text: str) -> None:
        """Gives the loggers a text."""
        self._tell(step, "text", step, name, text)

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        # Rows are safe in the other file; a full disk has been told before.
        with contextlib.suppress(UserError):
            # Called on the way out: whatever ends the run is being handled now.
            self._tell(self._total, "close", sys.exc_info()[0] is not None)

    def _tell(self, step: int, method: str, *values: Any) -> None:
        """Calls a method of every logger; one that fails is told and left out from then on."""
        for logger in tuple(self._loggers):
            try:
                getattr(logger, method)(*values)
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise self._unwritten(step, error) from error
                self._loggers.remove(logger)
                said = " ".join(str(error).split()) or type(error).__name__
                name = type(logger).__name__
                self.say(f"warning: {name} fails and is told no more, seen at step {step}: {said}")

    def _unwritten(self, step: int, error: OSError) -> UserError:
        return UserError(
            f"cannot write metrics of step {step} to {self._file.name}: {error.strerror}; "
            "with room again the same command continues from the last checkpoint"
        )

    def _eta(self, step: int) -> str:
        done = step - self._start
        if self._bar is not None or done <= 0 or step >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - step)
        return f"eta {int(seconds) // 60}:{int(seconds) % 60:02d}"


def open_log(workdir: pathlib.Path, config: Config, start: int, total: int) -> Log:
    """The log of a run with the loggers that its config names."""
    loggers = make_loggers(config.log.to)
    return Log(workdir, start=start, total=total, loggers=loggers, config=to_dict(config))


class NoLog:
    """The log of every process but the first: silent."""

    def progress(self, step: int) -> None:
        """Nothing."""

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Nothing."""

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Nothing."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line, row in rows_of(path) if row["step"] <= step]
    write_whole(path, "".join(line + "\n" for line in kept))


def rows_of(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a metrics.jsonl, each with its line.

    A kill in the middle of a write leaves half a row, a damaged disk anything: what is no row is
    left out.
    """
    rows = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(row, dict)
            and isinstance(row.get("step"), int)
            and isinstance(row.get("time"), float)
            and row.get("split") in ("train", "eval")
            and all(isinstance(row[name], int | float) for name in row if name != "split")
        ):
            rows.append((line, row))
    return rows

"""What people look at while a run goes: a progress bar or plain lines, JSONL, TensorBoard."""

import contextlib
import errno
import io
import json
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from scanmax.errors import UserError
from scanmax.files import write_whole

# Order in which metrics are shown; what is not named here is written and not shown.
SHOWN = (
    "loss",
    "accuracy",
    "knn_accuracy",
    "probe_accuracy",
    "bits_per_byte",
    "examples_per_second",
    "utilization",
)
# Without a terminal a line of training metrics is shown at most this often; files get every row.
LINE_SECONDS = 2.0
# TensorBoard's events reach the disk at least this often.
FLUSH_SECONDS = 30.0


class Log:
    """Writes metrics to `metrics.jsonl` and TensorBoard, and shows progress.

    A row is {"step": .., "split": "train" or "eval", "time": .., name: value, ...}. Rows beyond the
    step that a run resumes from are dropped first: a curve never runs twice over the same steps.
    """

    def __init__(
        self, workdir: pathlib.Path, *, start: int, total: int, stream: TextIO | None = None
    ):
        self._stream = sys.stderr if stream is None else stream
        path = pathlib.Path(workdir) / "metrics.jsonl"
        _drop_rows_after(path, start)
        try:
            # Without a buffer: what a full disk refuses is told here, and not again at the end.
            self._file = path.open("ab", buffering=0)
            self._board = Board(pathlib.Path(workdir) / "tensorboard", start)
        except OSError as error:
            raise UserError(f"cannot write {error.filename or path}: {error.strerror}") from error
        self._total, self._start, self._began = total, start, time.monotonic()
        self._next_line = 0.0
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=start, unit="step", file=self._stream, dynamic_ncols=True
            )

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
            self._board.write(step, {f"{split}/{name}": value for name, value in metrics.items()})
        except OSError as error:
            raise UserError(
                f"cannot write metrics of step {step} to {self._file.name}: {error.strerror}; "
                "with room again the same command continues from the last checkpoint"
            ) from error
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

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        # Rows are safe in the other file; a full disk has been told before.
        with contextlib.suppress(OSError):
            self._board.close()

    def _eta(self, step: int) -> str:
        done = step - self._start
        if self._bar is not None or done <= 0 or step >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - step)
        return f"eta {int(seconds) // 60}:{int(seconds) % 60:02d}"


class Board:
    """TensorBoard's file of events, written here and now.

    tensorboardX's own writer is a thread; where that fails, for instance on a full disk, its queue
    fills up and the run hangs.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        # Imported here: it costs time that no other use of the package should pay.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._summary, self._event = summary, event_pb2.Event
        self._writer = EventsWriter(str(folder / "events"))
        self._next_flush = 0.0
        # What an earlier part of the run wrote beyond its checkpoint is hidden.
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(
            self._event(step=start + 1, session_log=session, wall_time=time.time())
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name."""
        for name, value in values.items():
            told = self._summary.scalar(name, value)
            self._writer.write_event(self._event(step=step, summary=told, wall_time=time.time()))
        if time.monotonic() > self._next_flush:
            self._writer.flush()
            self._next_flush = time.monotonic() + FLUSH_SECONDS

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class NoLog:
    """The log of every process but the first: silent."""

    def progress(self, step: int) -> None:
        """Nothing."""

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
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

"""What people look at while a run goes: a progress bar or plain lines, JSONL, TensorBoard."""

import io
import json
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

# Order in which metrics are shown; what is not named here is written and not shown.
SHOWN = ("loss", "accuracy", "bits_per_byte", "examples_per_second", "utilization")
# Without a terminal a line of training metrics is shown at most this often; files get every row.
LINE_SECONDS = 2.0


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
        self._file = path.open("a")
        # Imported here: it costs a second that no other use of the package should pay.
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(pathlib.Path(workdir) / "tensorboard"), purge_step=start)
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
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
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
        self._board.close()

    def _eta(self, step: int) -> str:
        done = step - self._start
        if self._bar is not None or done <= 0 or step >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - step)
        return f"eta {int(seconds) // 60}:{int(seconds) % 60:02d}"


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
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # A kill in the middle of a write leaves half a row.
            continue
        if row["step"] <= step:
            kept.append(line)
    part = path.with_suffix(".part")
    part.write_text("".join(line + "\n" for line in kept))
    os.replace(part, path)

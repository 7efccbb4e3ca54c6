"""TensorBoard's file of events."""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanmax.train.loggers.base import Logger

# Events reach the disk at least this often.
FLUSH_SECONDS = 30.0


@dataclasses.dataclass
class TensorBoard(Logger):
    """Events under workdir/tensorboard, written here and now.

    tensorboardX's own writer is a thread; where that fails, for instance on a full disk, its queue
    fills up and the run hangs.
    """

    def open(self, workdir: pathlib.Path, config: Mapping[str, Any], start: int) -> None:
        summary, event_pb2, EventsWriter = _library()
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._summary, self._event = summary, event_pb2.Event
        self._writer = EventsWriter(str(folder / "events"))
        self._next_flush = 0.0
        # What an earlier part of the run wrote beyond its checkpoint is hidden.
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(
            self._event(step=start + 1, session_log=session, wall_time=time.time())
        )
        # Markdown, in which a block that is indented keeps its lines.
        told = json.dumps(config, indent=2)
        self.text(start, "config", "".join(f"    {line}\n" for line in told.splitlines()))

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._tell(step, self._summary.scalar(f"{split}/{name}", value))
        if time.monotonic() > self._next_flush:
            self._writer.flush()
            self._next_flush = time.monotonic() + FLUSH_SECONDS

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._tell(step, self._summary.image(name, pixels, dataformats="HWC"))

    def text(self, step: int, name: str, text: str) -> None:
        self._tell(step, self._summary.text(name, text))

    def close(self, failed: bool = False) -> None:
        self._writer.close()

    def _tell(self, step: int, told: Any) -> None:
        self._writer.write_event(self._event(step=step, summary=told, wall_time=time.time()))


def _library() -> tuple[Any, Any, Any]:
    """tensorboardX's summaries, events and their writer.

    Imported here: it costs time that no other use of the package should pay. It imports torch
    where that is installed, only to know its arrays, which takes ten times as long; a run has none.
    """
    hides = "torch" not in sys.modules
    if hides:
        sys.modules["torch"] = None
    try:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
    finally:
        if hides:
            del sys.modules["torch"]
    return summary, event_pb2, EventsWriter

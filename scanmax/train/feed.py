"""Batches on their way to the devices: a thread that reads ahead, global arrays from local rows."""

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from scanmax.errors import UserError
from scanmax.train.objectives import Batch

# The thread's name, by which cli.leave finds one that hangs in a read.
NAME = "feed"
# How often one who waits for a batch asks whether to go on waiting, in seconds.
ASK_EVERY = 0.5


class Stopped(UserError):
    """A signal asked to stop while no batch came."""


_gives_up: Callable[[float], bool] | None = None


@contextlib.contextmanager
def giving_up(asked: Callable[[float], bool]) -> Iterator[None]:
    """Inside, whoever waits for a batch asks, with the seconds waited; True raises Stopped there.

    It holds for the whole process, as the signals do that it is for.
    """
    global _gives_up
    before, _gives_up = _gives_up, asked
    try:
        yield
    finally:
        _gives_up = before


def to_device(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """Makes global arrays of this process's rows."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }


class ReadAhead:
    """Iterates over batches, `ahead` of them read by a thread.

    Args:
      batches: batch after batch.
      ahead: how many are kept ready.
      check: is shown each batch as it was read, and raises where it will not do.

    Attributes:
      waited: seconds that were waited because no batch was ready.
    """

    _END = object()

    def __init__(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        ahead: int,
        check: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    ):
        self.waited = 0.0
        self._batches, self._check = batches, check
        self._queue: queue.Queue = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name=NAME, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        item = self._take(start)
        self.waited += time.perf_counter() - start
        if item is self._END:
            self._queue.put(item)
            raise StopIteration
        if isinstance(item, BaseException):
            self._queue.put(item)
            raise item
        return item

    def close(self, patience: float = 2.0) -> None:
        """Ends the thread; what it prepared is dropped. One that hangs in a read is left behind."""
        self._stopped.set()
        self._drain(patience)
        if self._thread.is_alive() and hasattr(self._batches, "close"):
            # Where worker processes hang, ending them ends the wait for them. A generator under
            # way cannot be closed.
            with contextlib.suppress(ValueError):
                self._batches.close()
            self._drain(patience)

    def _prepare(self, batch: Mapping[str, np.ndarray]) -> Any:
        return batch

    def _take(self, start: float) -> Any:
        while True:
            try:
                return self._queue.get(timeout=ASK_EVERY)
            except queue.Empty:
                if _gives_up is not None and _gives_up(time.perf_counter() - start):
                    raise Stopped("stopped by a signal while waiting for data") from None

    def _drain(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self) -> None:
        # What this thread starts, such as worker processes, inherits it: a signal to the whole
        # group, from a terminal or a scheduler, is the run's to answer.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for batch in self._batches:
                if self._check is not None:
                    self._check(batch)
                self._put(self._prepare(batch))
                if self._stopped.is_set():
                    break
            else:
                self._put(self._END)
            if hasattr(self._batches, "close"):
                self._batches.close()
        except SystemExit as error:
            self._put(UserError(f"what reads the data exits: SystemExit({error})"))
        except BaseException as error:
            # Reading happens here, the run is there: hand the error over.
            self._put(error)

    def _put(self, item) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue


class Feed(ReadAhead):
    """Iterates over the training batches on the devices; they never end.

    Args:
      batches: this process's rows, batch after batch.
      sharding: how the global rows lie.
      ahead: batches kept ready on the devices.
      check: is shown each batch as it was read, and raises where it will not do.

    Attributes:
      waited: seconds that the devices have stood still because no batch was ready.
      computing: what the last step will give; while it is not there, waiting costs nothing.
    """

    def __init__(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        sharding: NamedSharding,
        ahead: int,
        check: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    ):
        self.computing, self._sharding = None, sharding
        super().__init__(batches, ahead, check)

    def __next__(self) -> Batch:
        if self._queue.empty() and self.computing is not None:
            # Steps are only sent ahead where there are batches for them.
            jax.block_until_ready(self.computing)
        try:
            return super().__next__()
        except StopIteration:
            raise UserError(
                "the training data end before the run: an iterator over them must not"
            ) from None

    def _prepare(self, batch: Mapping[str, np.ndarray]) -> Batch:
        return to_device(batch, self._sharding)

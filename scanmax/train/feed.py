"""Batches on their way to the devices: a thread that reads ahead, global arrays from local rows."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding

from scanmax.errors import UserError
from scanmax.train.objectives import Batch


def to_device(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """Makes global arrays of this process's rows."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }


class Feed:
    """Iterates over device batches, `ahead` of them prepared by a thread.

    Attributes:
      waited: seconds that the devices have stood still because no batch was ready.
      computing: what the last step will give; while it is not there, waiting costs nothing.
    """

    _END = object()

    def __init__(
        self, batches: Iterator[Mapping[str, np.ndarray]], sharding: NamedSharding, ahead: int
    ):
        self.waited, self.computing = 0.0, None
        self._queue: queue.Queue = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(batches, sharding), name="feed", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._queue.empty() and self.computing is not None:
            # Steps are only sent ahead where there are batches for them.
            jax.block_until_ready(self.computing)
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if item is self._END:
            self._queue.put(item)
            raise StopIteration
        if isinstance(item, BaseException):
            self._queue.put(item)
            if isinstance(item, Exception):
                raise item
            # One that ends a thread in silence, such as SystemExit, would end the run as if well.
            raise UserError(f"the training data raised {item!r}") from item
        return item

    def close(self, patience: float = 10.0) -> None:
        """Ends the thread; what it prepared is dropped. One that hangs in a read is left behind."""
        self._stopped.set()
        deadline = time.monotonic() + patience
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self, batches, sharding) -> None:
        try:
            for batch in batches:
                self._put(to_device(batch, sharding))
                if self._stopped.is_set():
                    return
            self._put(self._END)
        except BaseException as error:
            # Reading happens here, the run is there: hand the error over.
            self._put(error)

    def _put(self, item) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue


def next_batch(feed: Iterator[Batch], step: int, total: int) -> Batch:
    """The batch of a step.

    Raises:
      UserError: there is none; training data go on without end.
    """
    batch = next(feed, None)
    if batch is None:
        raise UserError(
            f"the training data ended before step {step} of {total}; an iterator of one's own "
            "starts over by itself"
        )
    return batch

"""Batches made ahead: by threads of this process, or by worker processes that end when it does."""

import contextlib
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import reduction
from typing import Any

import absl.logging
import grain
import numpy as np
from absl import flags

from scanmax.data.config import DataConfig
from scanmax.errors import UserError

# How long worker processes may take to tidy up before they are ended.
PATIENCE = 5.0
# What leaves a worker no word of its own; as multiprocessing gives it, a signal is negative.
CAUSES = {
    -signal.SIGKILL: "killed, as the system does when memory runs out",
    -signal.SIGBUS: "a bus error, as a full /dev/shm gives",
}
# Memory that an ended worker had shared is freed by Python's own tracker, which need not tell.
QUIET = "ignore:resource_tracker:UserWarning"


class Lifeline:
    """Ends worker processes at once: a pipe that only this process holds open.

    A worker whose source hangs hears nothing else, and one whose parent was killed would wait for
    ever for its batches to be taken.
    """

    def __init__(self):
        self._end, self._held = os.pipe()

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._end)

    def __setstate__(self, handed: Any) -> None:
        self._end = handed.detach()

    def __call__(self, index: int, count: int) -> None:
        """Runs in a worker as it starts."""
        # What it has to say of the data it says by an error.
        absl.logging.set_verbosity(absl.logging.ERROR)
        # Sent to the whole group, they are for who reads the batches to answer.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._wait, name="lifeline", daemon=True).start()

    def cut(self) -> None:
        """Ends the workers."""
        os.close(self._end)
        os.close(self._held)

    def _wait(self) -> None:
        os.read(self._end, 1)
        os._exit(1)


class Batches:
    """An iterator over a dataset's batches, in order, with what makes them ahead.

    Threads make whole batches, `config.threads` at a time. With n workers each makes every n-th
    batch, by threads of its own, and hands it over in shared memory.
    """

    def __init__(self, dataset: grain.MapDataset, config: DataConfig):
        # A process is worth its start for two batches at least.
        threads, workers = max(1, config.threads), min(config.workers, len(dataset) // 2)
        ready = threads if workers > 0 else 2 * threads
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ready)
        batches = dataset.to_iter_dataset(options)
        self._workers, self._cut = workers, None
        if workers > 0:
            if not flags.FLAGS.is_parsed():
                # Grain asks for flags of its own; our command lines keep theirs to themselves.
                flags.FLAGS.mark_as_parsed()
            if QUIET not in sys.warnoptions:
                sys.warnoptions.append(QUIET)
            lifeline = Lifeline()
            # Grain's own threads would keep workers whose batches no one holds any more.
            self._cut = weakref.finalize(self, lifeline.cut)
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
                worker_init_fn=lifeline,
            )
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            return next(self._batches)
        except StopIteration:
            self.close()
            raise
        except RuntimeError as error:
            ended = re.search(r"was terminated unexpectedly with exit code (-?\d+)", str(error))
            if not ended:
                raise
            code = int(ended[1])
            raise UserError(
                f"a worker process that reads data ended with exit code {code}"
                + (f" ({CAUSES[code]})" if code in CAUSES else "")
                + f"; config.data.workers={self._workers}. Started again, the run continues from "
                "its last checkpoint"
            ) from error

    def close(self) -> None:
        """Ends threads and worker processes, those too whose source hangs."""
        tidying = threading.Thread(target=self._tidy, name="tidying", daemon=True)
        tidying.start()
        tidying.join(PATIENCE)
        if self._cut is not None:
            self._cut()
            tidying.join(PATIENCE)

    def _tidy(self) -> None:
        # What is under way may fail, and no one asks for it any more.
        with contextlib.suppress(Exception):
            self._batches.close()


class TrainingBatches:
    """An iterator over training batches as a model reads them, finished on the host.

    Who can finish them on a device asks for them `as_sent`, before the first one.
    """

    def __init__(self, finished: grain.MapDataset, sent: grain.MapDataset, config: DataConfig):
        self.finished, self.sent, self._config = finished, sent, config
        self._batches: Batches | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = Batches(self.finished, self._config)
        return next(self._batches)

    def as_sent(self) -> Batches:
        """The batches from the first one, as `Pipeline.finish` reads them."""
        return Batches(self.sent, self._config)

    def close(self) -> None:
        """Ends threads and worker processes."""
        if self._batches is not None:
            self._batches.close()

"""The processes of one run: how they join, and how all end when one of them is lost."""

import atexit
import os
import sys
import threading
import time

import jax

from scanmax.errors import UserError


def start_processes(
    coordinator: str | None, count: int, index: int, lost_after: float = 60.0
) -> None:
    """Joins the other processes of a run; CPU processes talk through gloo.

    Args:
      coordinator: host:port of process 0; "auto" asks the cluster; None is one process alone.
      count: processes of the run.
      index: this process, from 0.
      lost_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      UserError: numbers that do not fit each other.
    """
    if coordinator is None:
        if count != 1 or index != 0:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    if not 0 <= index < count:
        raise UserError(f"--process_id={index} is not below --num_processes={count}")
    # Ours speaks first: the runtime ends a process without a word of what to do.
    patience = {"heartbeat_timeout_seconds": int(2 * lost_after) + 10}
    if coordinator == "auto":
        # TPU pods, Slurm, Kubernetes and Open MPI say who is who.
        jax.distributed.initialize(**patience)
    else:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, num_processes=count, process_id=index, **patience)
    if jax.process_count() > 1:
        Watch(lost_after).start()


class Watch(threading.Thread):
    """Gives a sign of life every second and ends this process when another one stops giving any.

    A collective waits for all; without this the others would hang in theirs.
    """

    def __init__(self, lost_after: float):
        super().__init__(name="watch", daemon=True)
        from jax._src.distributed import global_state

        self._client, self._lost_after = global_state.client, lost_after
        self._index, self._count = jax.process_index(), jax.process_count()
        self._ended = threading.Event()
        # Before the runtime's own, which waits for the others to end.
        atexit.register(self._leave)

    def run(self) -> None:
        beat, seen = 0, {}
        while not self._ended.wait(1.0):
            beat += 1
            try:
                self._say(str(beat))
                for other in set(range(self._count)) - {self._index}:
                    sign, now = self._hear(other), time.monotonic()
                    if other not in seen or sign != seen[other][0]:
                        seen[other] = (sign, now)
                    # One that has ended in order may leave work to the others, such as a report.
                    patience = self._lost_after * (5 if sign == "left" else 1)
                    if now - seen[other][1] > patience:
                        what = "ended" if sign == "left" else "gave its last sign of life"
                        return self._end(f"process {other} {what} {patience:g} s ago")
            except jax.errors.JaxRuntimeError as error:
                if not self._ended.is_set():
                    reason = " ".join(str(error).split())[:100]
                    return self._end(f"process 0, which coordinates, does not answer ({reason})")

    def _say(self, sign: str) -> None:
        self._client.key_value_set(f"scanmax/alive/{self._index}", sign, allow_overwrite=True)

    def _hear(self, other: int) -> str | None:
        try:
            return self._client.key_value_try_get(f"scanmax/alive/{other}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def _leave(self) -> None:
        self._ended.set()
        try:
            self._say("left")
        except jax.errors.JaxRuntimeError:
            # The coordinator has left before.
            return

    def _end(self, what: str) -> None:
        print(
            f"error: {what}: this process ends too; start all of them again, and the run continues "
            "from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # No clean end: the main thread waits for the lost one.
        os._exit(2)

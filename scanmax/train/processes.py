"""The processes of one run: how they join, agree and end, all of them when one is lost or fails."""

import atexit
import contextlib
import itertools
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.train.config import Config, flatten
from scanmax.train.rendezvous import check_patience, parse_address, reserve, resolve

# Processes may start minutes apart: a cluster gives its machines out one by one.
JOIN_SECONDS = 300.0
# A process that hears of a failure may be about to fail in the same way, in its own order.
GRACE = 3.0
# How long one that ends waits for those whom it keeps; below the runtime's patience with the lost.
LINGER = 10.0
# May differ: each machine has its own disks and cores, and what is read is the same.
OWN_FIELDS = ("data.data_dir", "data.workers", "data.threads")
ADVICE = (
    ": this process ends too; start all of them again, and the run continues from its last "
    "checkpoint"
)
FAILED, LEFT, GONE = "failed", "left", "gone"

_watch: "Watch | None" = None
_agreements = itertools.count()


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
      UserError: numbers that do not fit each other, an address that cannot be, a port in use.
    """
    global _watch
    check_patience(lost_after)
    if coordinator is None:
        if count != 1 or index != 0:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    # Ours speaks first: the runtime ends a process without a word of what to do.
    patience = {
        "heartbeat_timeout_seconds": int(2 * lost_after) + 10,
        "initialization_timeout": int(JOIN_SECONDS) + 30,
    }
    if coordinator == "auto":
        if count != 1 or index != 0:
            raise UserError(
                "--coordinator=auto asks the cluster who is who: leave out --num_processes and "
                "--process_id"
            )
        try:
            # TPU pods, Slurm, Kubernetes and Open MPI say who is who.
            with joining("the cluster's processes"):
                jax.distributed.initialize(**patience)
        except ValueError as error:
            raise UserError(
                f"--coordinator=auto finds no cluster ({error}); give --coordinator=HOST:PORT, "
                "--num_processes and --process_id"
            ) from error
    else:
        if count < 1:
            raise UserError(f"--num_processes={count} must be at least 1")
        if not 0 <= index < count:
            raise UserError(
                f"--process_id={index} must be from 0 to {count - 1}, below --num_processes={count}"
            )
        host, port = parse_address(coordinator)
        resolve(host)
        if index == 0:
            reserve(port)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        with joining(f"{count} processes at --coordinator={coordinator}"):
            jax.distributed.initialize(
                coordinator, num_processes=count, process_id=index, **patience
            )
    if jax.process_count() > 1:
        _watch = Watch(lost_after)
        _watch.start()


@contextlib.contextmanager
def joining(whom: str) -> Iterator[None]:
    """Ends this process in a line where not all have joined in time; the runtime would abort."""

    def end() -> None:
        print(
            f"error: not all of {whom} have joined within {JOIN_SECONDS:.0f} s: start them all, "
            "each with its own --process_id",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(JOIN_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def agree(config: Config, workdir: Any) -> None:
    """Refuses a run whose processes were given different configs or workdirs.

    Raises:
      UserError: naming the fields; the other processes end by `telling_others`.
    """
    if jax.process_count() == 1:
        return
    own = {f"config.{path}": value for path, value in flatten(to_dict(config)).items()}
    for path in OWN_FIELDS:
        own.pop(f"config.{path}", None)
    own["--workdir"] = str(pathlib.Path(workdir).absolute())
    text = json.dumps(own, default=str, sort_keys=True)
    client, key = _client(), f"scanmax/config/{next(_agreements)}"
    patience = int(1000 * JOIN_SECONDS)
    if jax.process_index() == 0:
        client.key_value_set(key, text)
        # Before all have agreed it writes nothing. One that does not ends this process too.
        for other in range(1, jax.process_count()):
            client.blocking_key_value_get(f"{key}/{other}", patience)
        return
    first = json.loads(client.blocking_key_value_get(key, patience))
    own = json.loads(text)
    differs = [path for path in sorted({*first, *own}) if first.get(path) != own.get(path)]
    if differs:
        told = [f"{path}={own.get(path)!r}, not {first.get(path)!r}" for path in differs[:3]]
        more = f" and {len(differs) - 3} more" if len(differs) > 3 else ""
        raise UserError(
            f"process {jax.process_index()} has another config than process 0 "
            f"({'; '.join(told)}{more}): start all with the same"
        )
    client.key_value_set(f"{key}/{jax.process_index()}", "agreed")


@contextlib.contextmanager
def telling_others() -> Iterator[None]:
    """Tells the other processes what ends this one early: they would wait for it."""
    try:
        yield
    except BaseException as error:
        if _watch is not None:
            _watch.fail(error)
        raise


def is_preempted() -> bool:
    """Whether SIGTERM has been sent to a process of this run; its runtime tells the others."""
    try:
        return _hear_key(_client(), "RECEIVED_PREEMPTION_NOTICE") is not None
    except jax.errors.JaxRuntimeError:
        return False


def _client() -> Any:
    from jax._src.distributed import global_state

    return global_state.client


def _hear_key(client: Any, key: str) -> str | None:
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


class Watch(threading.Thread):
    """Gives a sign of life every second and ends this process when another one stops giving any.

    A collective waits for all; without this the others would hang in theirs. The last sign of a
    process says how it ends: LEFT in order, FAILED and why while it clears up, GONE and why after.
    """

    def __init__(self, lost_after: float):
        super().__init__(name="watch", daemon=True)
        self._client, self._lost_after = _client(), lost_after
        self._index = jax.process_index()
        self._others = sorted(set(range(jax.process_count())) - {self._index})
        self._ended, self._speaking = threading.Event(), threading.Lock()
        self._failed: tuple[str, int] | None = None
        # Before the runtime's own, which waits for the others to end.
        atexit.register(self._leave)

    def run(self) -> None:
        """Gives and hears signs until this process ends."""
        beat, seen = 0, {}
        while not self._ended.wait(1.0):
            beat += 1
            try:
                with self._speaking:
                    if self._failed is None:
                        self._say(str(beat))
                for other in tuple(self._others):
                    sign, now = self._hear(other), time.monotonic()
                    if other not in seen or sign != seen[other][0]:
                        seen[other] = (sign, now)
                    self._judge(other, sign, now - seen[other][1])
            except jax.errors.JaxRuntimeError as error:
                if not self._ended.is_set():
                    reason = " ".join(str(error).split())[:100]
                    return self._end(f"process 0, which coordinates, does not answer ({reason})")

    def fail(self, error: BaseException) -> None:
        """Says that this process ends early, and why; the first reason counts."""
        line = " ".join(str(error).split())
        mistake = isinstance(error, UserError | OSError)
        # No sign of life may come after it.
        with self._speaking, contextlib.suppress(jax.errors.JaxRuntimeError):
            if self._failed is None:
                why = line if mistake else f"{type(error).__name__}: {line}"
                self._failed = (why, 2 if mistake else 1)
                self._say(f"{FAILED} {why}")

    def _judge(self, other: int, sign: str | None, age: float) -> None:
        """Ends this process for what another one's sign says, or for its age."""
        what, _, why = (sign or "").partition(" ")
        if self._failed is not None:
            # What it was for waits in vain, such as a checkpoint for the parts of others.
            if what == GONE and age > LINGER:
                self._end(self._failed[0], advice="")
        elif what == GONE or (what == FAILED and age > GRACE):
            self._end(f"process {other} ended: {why}")
        elif what != FAILED:
            # One that has ended in order may leave work to the others, such as a report.
            patience = self._lost_after * (5 if sign == LEFT else 1)
            if age > patience:
                ended = "ended" if sign == LEFT else "gave its last sign of life"
                self._others.remove(other)
                self._end(f"process {other} {ended} {patience:g} s ago")

    def _say(self, sign: str) -> None:
        self._client.key_value_set(f"scanmax/alive/{self._index}", sign, allow_overwrite=True)

    def _hear(self, other: int) -> str | None:
        return _hear_key(self._client, f"scanmax/alive/{other}")

    def _leave(self) -> None:
        """At the end of the interpreter."""
        self._ended.set()
        try:
            if self._failed is None:
                self._say(LEFT)
            elif not all(self._hear(other) == LEFT for other in self._others):
                self._go(*self._failed)
        except jax.errors.JaxRuntimeError:
            # The coordinator has left before.
            return

    def _end(self, what: str, advice: str = ADVICE) -> None:
        print(f"error: {what}{advice}", file=sys.stderr, flush=True)
        # No clean end: the main thread waits for the lost one.
        self._go(what, 2)

    def _go(self, why: str, status: int) -> None:
        """Ends this process at once; process 0 after the others, who hear each other through it."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._say(f"{GONE} {why}")
            deadline = time.monotonic() + (LINGER if self._index == 0 else 0)
            while time.monotonic() < deadline and not all(
                (self._hear(other) or "").startswith((LEFT, GONE)) for other in self._others
            ):
                time.sleep(0.2)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

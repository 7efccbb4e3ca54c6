"""The folder of a run: one config, one process at a time."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.checkpoint import read_meta
from scanmax.train.config import RESUMABLE, Config, changed_fields, may_change


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A folder that this run holds.

    Attributes:
      path: the folder.
      config: the run's config.
      changed: "path: old -> new" of what the config changes in the run that the folder holds.
      before: that run's config, as nested dicts; empty where it is the first.
    """

    path: pathlib.Path
    config: Config
    changed: Sequence[str] = ()
    before: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def record(self) -> None:
        """Writes `config.json`, once the first step is ready: a refused config leaves no trace."""
        if jax.process_index() == 0:
            text = json.dumps(to_dict(self.config), indent=2) + "\n"
            write_whole(self.path / "config.json", text)


@contextlib.contextmanager
def open_workdir(path: str | pathlib.Path, config: Config) -> Iterator[Workdir]:
    """Makes the folder and locks it for this run.

    A folder that holds checkpoints of another config is refused, naming the fields; those of
    `config.RESUMABLE` (mesh, cadences, duration, rate, ...) may change between the parts of a run.
    A run without a checkpoint has trained nothing: any config may take its place.

    Raises:
      UserError: the folder cannot be written, is in use, or belongs to another config.
    """
    path = pathlib.Path(path).absolute()
    if jax.process_index() != 0:
        yield Workdir(path, config)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Opened without emptying it: it names the run that may hold it.
        lock = (path / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"cannot write to --workdir={path}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise UserError(
                f"--workdir={path} is in use by another run" + (f" ({holder})" if holder else "")
            ) from None
        except OSError as error:
            raise UserError(f"cannot lock --workdir={path}: {error.strerror or error}") from error
        # The system drops the lock of a process that ends, however it ends: none is ever stale.
        before = read_config(path) if steps_of(path) else {}
        changed = changed_fields(before, to_dict(config)) if before else {}
        refused = [told for field, told in changed.items() if not may_change(field)]
        if refused:
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            raise UserError(
                f"--workdir={path} holds a run of another config ({'; '.join(refused[:3])}{more}): "
                f"take another --workdir, or the config of {path / 'config.json'}, in which only "
                f"{', '.join(RESUMABLE)} may change"
            )
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={path}: {error.strerror or error}"
            ) from error
        yield Workdir(path, config, tuple(changed.values()), before)


def steps_of(workdir: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints of a workdir, oldest first."""
    folders = (workdir / "checkpoints").glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config of the run that a workdir holds, as nested dicts.

    `config.json` may be lost, damaged or edited by hand: where it disagrees with the newest
    checkpoint in what may not change, the checkpoint's own copy is taken, and a line says so.

    Raises:
      UserError: neither is there.
    """
    file = workdir / "config.json"
    try:
        found = json.loads(file.read_text())
        wrong = "" if isinstance(found, dict) and found else "is damaged"
    except (OSError, ValueError) as error:
        found, wrong = {}, "is damaged" if isinstance(error, ValueError) else "is missing"
    for step in reversed(steps_of(workdir)):
        try:
            kept = read_meta(workdir / "checkpoints" / str(step)).get("config")
        except (OSError, ValueError):
            continue
        if not kept:
            continue
        if not wrong:
            changed = changed_fields(kept, found)
            odd = [told for field, told in changed.items() if not may_change(field)]
            if not odd:
                return found
            wrong = f"is not that of checkpoint {step} ({'; '.join(odd[:3])})"
        print(f"warning: {file} {wrong}: read from checkpoint {step}", file=sys.stderr)
        return kept
    if wrong == "is missing":
        raise UserError(f"no config.json in {workdir}: it is not the workdir of a run")
    if wrong:
        raise UserError(f"{file} {wrong}, and no checkpoint holds a copy that can be read")
    return found

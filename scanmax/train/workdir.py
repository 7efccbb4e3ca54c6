"""The folder of a run: one config, one process at a time."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator

import jax

from scanmax.cli import to_dict
from scanmax.errors import UserError
from scanmax.train.config import Config, changed_fields


@contextlib.contextmanager
def open_workdir(path: str | pathlib.Path, config: Config) -> Iterator[pathlib.Path]:
    """Makes the folder, locks it for this run and writes `config.json`.

    A folder that holds a run of another config is refused, naming the fields; those of
    `config.RESUMABLE` (mesh, cadences, duration, ...) may change between the parts of a run.

    Raises:
      UserError: the folder cannot be written, is in use, or belongs to another config.
    """
    path = pathlib.Path(path).absolute()
    if jax.process_index() != 0:
        yield path
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
        file = path / "config.json"
        if file.exists() and file.stat().st_size:
            changed = changed_fields(json.loads(file.read_text()), config)
            if changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise UserError(
                    f"--workdir={path} holds a run of another config ({'; '.join(changed[:3])}"
                    f"{more}): take another --workdir, or the config of {file}"
                )
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            part = file.with_suffix(".part")
            part.write_text(json.dumps(to_dict(config), indent=2) + "\n")
            part.replace(file)
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={path}: {error.strerror or error}"
            ) from error
        yield path

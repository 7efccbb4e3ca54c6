"""What is worked out once of a user's data and kept in the user's cache: data may be read-only."""

import contextlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scanmax.errors import UserError
from scanmax.files import write_whole


def cache_place(name: str) -> pathlib.Path:
    """Where something of that name is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser() / "scanmax" / name


def keep_folder(name: str, write: Callable[[pathlib.Path], None], what: str) -> pathlib.Path:
    """The folder of that name, written where it is not there yet.

    Args:
      name: under which it is kept; it tells apart whatever is written.
      write: fills a folder.
      what: whose it is, as messages name it.

    Raises:
      UserError: it cannot be written.
    """
    folder = cache_place(name)
    if folder.exists():
        return folder
    own = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        own.mkdir(parents=True)
        write(own)
        # Several processes of a run may write the same: the first one's is kept.
        with contextlib.suppress(OSError):
            own.rename(folder)
    except OSError as error:
        raise UserError(f"cannot keep {what}: {error}") from error
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return folder


def stamps_of(files: Sequence[pathlib.Path]) -> list[list[Any]]:
    """What changes when one of the files does, for JSON."""
    stats = [(file, file.stat()) for file in files]
    return [[str(file), stat.st_mtime_ns, stat.st_size] for file, stat in stats]


def read_arrays(file: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]] | None:
    """What `keep_arrays` kept: the words and the arrays. None where nothing whole is there."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = dict(kept)
        return json.loads(str(arrays.pop("told"))), arrays
    except Exception:
        # Whatever a file of another version or half a file gives: it is worked out anew.
        return None


def keep_arrays(file: pathlib.Path, told: Any, arrays: dict[str, np.ndarray]) -> None:
    """Keeps words and arrays; where they cannot be written the next run works them out again."""
    buffer = io.BytesIO()
    np.savez(buffer, told=np.asarray(json.dumps(told)), **arrays)
    own = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes of a run may work out the same.
        write_whole(own, buffer.getvalue())
        own.replace(file)
    except (OSError, UserError):
        own.unlink(missing_ok=True)

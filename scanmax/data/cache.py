"""What is worked out once of a user's data and kept in the user's cache: data may be read-only."""

import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from scanmax.errors import UserError
from scanmax.files import write_whole


def cache_place(name: str) -> pathlib.Path:
    """Where something of that name is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser() / "scanmax" / name


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

"""Files that are whole or not there: written beside their place, then renamed into it."""

import os
import pathlib

from scanmax.errors import UserError


def write_whole(path: str | pathlib.Path, content: str | bytes) -> None:
    """Replaces a file; who reads it, or comes after a kill, finds the old one or the new one.

    Raises:
      UserError: the file cannot be written; the message names it and says why.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            # A rename may reach the disk before what it names does.
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error

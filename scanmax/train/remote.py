"""A workdir in a bucket: `gs://`, `s3://`, whatever fsspec reads and writes.

A run locks, appends and renames, which buckets cannot. It works in a folder of this machine, which
is made like the bucket's when it begins; what is whole is copied over while it goes, and all of it
at the end. A copy that is interrupted in the middle of a checkpoint is told by its checksums, as
any damaged one.
"""

import contextlib
import fcntl
import hashlib
import pathlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import jax

from scanmax.data.cache import cache_place
from scanmax.errors import UserError

# What a protocol needs besides fsspec: extra of scanmax that brings it.
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
# Seconds between copies while a run goes.
EVERY = 20.0
# Of a file that is being written, and of a folder of orbax that is not whole yet.
UNFINISHED = (".part", ".lock", ".orbax-checkpoint-tmp")

_PROTOCOL = re.compile(r"([a-z][a-z0-9+.-]+):/+")


def is_remote(path: Any) -> bool:
    """Whether a path names a place that is no folder of this machine's file systems.

    >>> is_remote("gs://bucket/run"), is_remote("runs/first"), is_remote("C:/runs")
    (True, False, False)
    """
    return bool(_PROTOCOL.match(str(path)))


def local_of(url: Any, use: str = "run") -> pathlib.Path:
    """The folder here in the place of a remote one; a run and who reads have their own."""
    text = _written(url).rstrip("/")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_place("remote") / digest / use / text.rpartition("/")[2]


@contextlib.contextmanager
def mirrored(workdir: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder in which a run works: its workdir, or what is copied to a remote one.

    Raises:
      UserError: the place cannot be read or written, or needs a package that is not there.
    """
    if not is_remote(workdir):
        yield pathlib.Path(workdir)
        return
    if jax.process_count() > 1:
        raise UserError(
            f"--workdir={_written(workdir)}: several processes write to one file system; mount the "
            "bucket, with gcsfuse or s3fs, and name its folder"
        )
    local = local_of(workdir)
    with _alone(local, workdir):
        mirror = Mirror(workdir, local)
        mirror.pull()
        done = threading.Event()

        def copy() -> None:
            while not done.wait(EVERY):
                mirror.push_or_warn()

        def finish() -> None:
            done.set()
            thread.join()
            try:
                mirror.push()
            except UserError as error:
                raise UserError(f"{error}; all of the run lies in {mirror.set_aside()}") from error

        thread = threading.Thread(target=copy, daemon=True, name="remote")
        thread.start()
        try:
            yield local
        except BaseException:
            # What ended the run is told; an error about copying beside it.
            try:
                finish()
            except UserError as late:
                print(f"warning: {late}", file=sys.stderr)
            raise
        finish()


def fetched(workdir: str | pathlib.Path) -> pathlib.Path:
    """A workdir to read: itself, or a copy of a remote one as it is now."""
    if not is_remote(workdir):
        return pathlib.Path(workdir)
    mirror = Mirror(workdir, local_of(workdir, "read"))
    mirror.pull()
    return mirror.local


class Mirror:
    """A remote folder and the local one in its place."""

    def __init__(self, url: Any, local: pathlib.Path):
        self.url, self.local = _written(url), local
        self._sent: dict[str, tuple[int, int]] = {}
        self._warned = False
        protocol = self.url.partition(":")[0]
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            hint = f'pip install "scanmax[{extra}]"' if extra else str(error)
            raise UserError(f"{self.url} needs a package that is not installed: {hint}") from error
        except Exception as error:
            raise UserError(f"{self.url} cannot be opened: {_told(error)}") from error
        self._root = self._root.rstrip("/")

    def pull(self) -> None:
        """Makes the local folder like the remote one, which may be missing.

        Raises:
          UserError: it cannot be read.
        """
        shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True)
        self._sent = {}
        try:
            self._files.invalidate_cache()
            names = self._files.find(self._root) if self._files.exists(self._root) else []
            for name in names:
                relative = name[name.index(self._root) + len(self._root) :].strip("/")
                file = self.local / relative
                file.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(name, str(file))
                self._sent[relative] = _signature(file)
        except Exception as error:
            raise UserError(f"cannot read {self.url}: {_told(error)}") from error

    def push(self) -> None:
        """Copies what has changed, and removes what is gone.

        Raises:
          UserError: it cannot be written.
        """
        found = {}
        for file in sorted(self.local.rglob("*")):
            relative = file.relative_to(self.local).as_posix()
            if any(word in relative for word in UNFINISHED):
                continue
            # A checkpoint may be removed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if file.is_file():
                    found[relative] = _signature(file)
        try:
            # What says that a checkpoint is whole comes last.
            for relative in sorted(found, key=lambda name: ("/meta" in name, name)):
                if self._sent.get(relative) == found[relative]:
                    continue
                place = f"{self._root}/{relative}"
                try:
                    self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(self.local / relative), place)
                except FileNotFoundError:
                    if (self.local / relative).exists():
                        raise
                    continue
                self._sent[relative] = found[relative]
            for relative in [name for name in self._sent if name not in found]:
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{relative}")
                del self._sent[relative]
        except Exception as error:
            raise UserError(f"cannot write {self.url}: {_told(error)}") from error

    def set_aside(self) -> pathlib.Path:
        """Moves the local folder to where no later run empties it."""
        kept = self.local.with_name(f"{self.local.name}.unsent.{time.time_ns()}")
        return self.local.rename(kept)

    def push_or_warn(self) -> None:
        """Copies what it can; the first failure in a row is told."""
        try:
            self.push()
            self._warned = False
        except UserError as error:
            if not self._warned:
                print(f"warning: {error}", file=sys.stderr)
            self._warned = True


@contextlib.contextmanager
def _alone(local: pathlib.Path, url: Any) -> Iterator[None]:
    """Holds the local folder for one run of this machine."""
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        lock = local.with_name(f"{local.name}.lock").open("a")
    except OSError as error:
        raise UserError(f"cannot write to {local.parent}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--workdir={_written(url)} is in use by another run") from None
        yield


def _written(url: Any) -> str:
    """As it was typed: a pathlib path has lost a slash, or two of a place on this machine.

    >>> _written("gs:/bucket/run"), _written("file:/share/run"), _written("file:///share/run")
    ('gs://bucket/run', 'file:///share/run', 'file:///share/run')
    """

    def slashes(match: re.Match) -> str:
        return f"{match[1]}:///" if match[1] in ("file", "local") else f"{match[1]}://"

    return _PROTOCOL.sub(slashes, str(url), count=1)


def _signature(file: pathlib.Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

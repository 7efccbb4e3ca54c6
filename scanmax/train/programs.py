"""Compiled programs that are kept between runs: a run like one before starts without compiling."""

import hashlib
import os
import pathlib
import platform

from absl import flags

from scanmax.data.cache import cache_place
from scanmax.errors import UserError

OFF = "off"
# What is kept is dropped, longest unused first, beyond this many bytes.
LARGEST = 4 * 2**30
# Programs that compile sooner are not worth a file, in seconds, unless JAX is told otherwise.
WORTH, TOLD = 0.5, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def define_flag(values: flags.FlagValues) -> None:
    """The flag of commands that train."""
    flags.DEFINE_string(
        "compile_cache",
        "",
        "folder of compiled programs, kept between runs; off keeps none; without it they lie in "
        "~/.cache/scanmax/programs, or where JAX_COMPILATION_CACHE_DIR says",
        flag_values=values,
    )


def keep_programs(folder: str = "") -> pathlib.Path | None:
    """Turns on JAX's persistent cache of compiled programs, for this process.

    Those that took half a second or longer to compile are kept. What JAX is told already stays as
    it is, by JAX_COMPILATION_CACHE_DIR or JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS.

    Args:
      folder: where they are kept; "" is $XDG_CACHE_HOME/scanmax/programs, mostly under ~/.cache;
        "off" keeps none.

    Returns:
      The folder of this kind of processor inside it, or None where this changes nothing.

    Raises:
      UserError: the folder that was named cannot be made.

    Example:
      >>> from scanmax.train.programs import keep_programs
      >>> keep_programs("off")
    """
    # A mistake in the flags should not wait for it to load.
    import jax

    if folder == OFF or (jax.config.jax_compilation_cache_dir and not folder):
        return None
    path = pathlib.Path(folder).expanduser() if folder else cache_place("programs")
    # Machine code for one processor may end the process on another that shares the folder.
    path = path / processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder:
            raise UserError(f"--compile_cache={folder}: {error.strerror}") from error
        return None
    drop_unused(path, LARGEST)
    jax.config.update("jax_compilation_cache_dir", str(path))
    if TOLD not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)
    return path


def processor() -> str:
    """A short name of what this processor can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    can = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    digest = hashlib.sha256(" ".join(sorted(can.split())).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def drop_unused(folder: pathlib.Path, largest: int) -> None:
    """Deletes files of a folder, longest unused first, until the others take `largest` bytes."""
    found = []
    for path in folder.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:
            # Another run has dropped it.
            continue
        found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > largest:
            path.unlink(missing_ok=True)

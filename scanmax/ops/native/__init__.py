"""Kernels for CPUs in C++, compiled on the machine that runs them.

`implementation="cpu"` asks an op for one; `SCANMAX_NATIVE=1` has ops take them unasked, wherever
they serve. They are compiled once, by the compiler that `CXX` names or the first of `COMPILERS`
that is there, for the very processor: in seconds, when the first of them is called or by
`python -m scanmax.ops.native`, and kept in the user's cache. A machine without a compiler runs
XLA's forms and lacks nothing else.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax

FOLDER = pathlib.Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-w")
SOURCES = ("attention.cc", "depthwise.cc")
# Names that XLA calls them by.
TARGETS = (
    "scanmax_attention",
    "scanmax_attention_gradient",
    "scanmax_depthwise",
    "scanmax_depthwise_gradient",
)


def is_unasked() -> bool:
    """Whether ops take these kernels without being asked: SCANMAX_NATIVE=1."""
    return os.environ.get("SCANMAX_NATIVE", "0") not in ("", "0")


def compiler() -> list[str] | None:
    """The compiler's command, or None where there is none."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    return None if found is None else [found]


def library_path(command: list[str]) -> pathlib.Path:
    """Where the library of these sources, this compiler, JAX and processor is kept."""
    processor = pathlib.Path("/proc/cpuinfo")
    told = [
        *command,
        *FLAGS,
        importlib.metadata.version("jaxlib"),
        platform.machine(),
        *sorted(
            {
                line
                for line in (processor.read_text().splitlines() if processor.exists() else [])
                if line.startswith(("model name", "flags", "Features", "CPU part"))
            }
        ),
        *(path.read_text() for path in sorted(FOLDER.glob("*.[ch]*"))),
    ]
    name = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "scanmax" / "native" / f"{name}.so"


def build() -> pathlib.Path:
    """Compiles the library, where it is not kept yet, and says where it is.

    Raises:
      RuntimeError: no compiler, or one that fails; the message holds what it said.
    """
    command = compiler()
    if command is None:
        raise RuntimeError(f"no C++ compiler: none of {', '.join(COMPILERS)}, and CXX is not set")
    path = library_path(command)
    if path.exists():
        return path
    sources = [str(FOLDER / name) for name in SOURCES]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once: each its own file, and the last one stays.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = pathlib.Path(folder) / path.name
            subprocess.run(
                [*command, *FLAGS, "-isystem", jax.ffi.include_dir(), *sources, "-o", str(made)],
                check=True,
                capture_output=True,
                text=True,
            )
            made.replace(path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        told = next((line for line in lines if "error" in line), lines[-1])
        raise RuntimeError(f"{shlex.join(command)} fails: {told}") from error
    except OSError as error:
        raise RuntimeError(f"{shlex.join(command)}: {error}") from error
    return path


@functools.cache
def obstacle() -> str | None:
    """Compiles and registers the kernels; what keeps them from this process, or None."""
    try:
        library = ctypes.cdll.LoadLibrary(str(build()))
    except (RuntimeError, OSError) as error:
        return str(error)
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return None

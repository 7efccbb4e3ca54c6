"""What every test process is given before jax is first imported: eight devices, a quick compiler.

The suite compiles tens of thousands of tiny functions and runs each a few times, so compiling is
what it costs. Without XLA's expensive passes it takes less than half as long; the passes are not
what it tests. SCANMAX_TEST_FULL_COMPILER=1 leaves them on: `SCANMAX_TEST_FULL_COMPILER=1 make
parity` compares the sums with other programs' as a user would run them.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def known_flags(flags: tuple[str, ...]) -> list[str]:
    """Those of the flags that the installed jaxlib takes.

    A process of its own is asked, half a second long: a flag that jaxlib does not know ends the
    process without an exception, and releases drop flags.
    """
    asked = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)},
        capture_output=True,
        text=True,
    )
    refused = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", asked.stderr)
    unknown = refused[1].split() if refused else []
    return [flag for flag in flags if flag not in unknown]


os.environ["JAX_PLATFORMS"] = "cpu"
flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
# The workers of pytest-xdist inherit what the first process found.
if (
    os.environ.get("SCANMAX_TEST_FULL_COMPILER", "0") == "0"
    and "PYTEST_XDIST_WORKER" not in os.environ
):
    flags = [*known_flags(QUICK), *(flag for flag in flags if flag not in QUICK)]
os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_force_host_platform_device_count=8"])

# Processes that tests start would each compile all of scanmax's source where none may keep it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What takes a while to compile is compiled once for all processes of a run: its workers, and those
# that a test starts. Nothing is kept between runs.
SHARED = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

# Compiled functions stay until a process ends; a whole run of the suite would need many gigabytes.
MOST_PAGES = 3 * 2**30 // os.sysconf("SC_PAGE_SIZE")


def pytest_configure(config):
    """Gives the run a folder for compiled programs, which ends with it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="scanmax-programs-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ |= {**SHARED, "JAX_COMPILATION_CACHE_DIR": folder}


@pytest.fixture(autouse=True, scope="module")
def drop_compiled_functions():
    """Forgets what was compiled, after a module that leaves more than 3 GiB behind."""
    yield
    status = pathlib.Path("/proc/self/statm")
    if status.exists() and int(status.read_text().split()[1]) > MOST_PAGES:
        import jax

        jax.clear_caches()


@pytest.fixture
def float64():
    """Double precision: what tells two evaluations of one function from a fault, not rounding."""
    import jax

    with jax.enable_x64(True):
        yield

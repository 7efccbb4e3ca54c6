"""A user's terminal: commands typed in a fresh folder, where scanmax is an installed wheel."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Each as `python -m` runs it.
ALL = """
import contextlib, io, json, runpy, sys
found = []
for module, *argv in json.loads(sys.argv[1]):
    sys.argv, said, status = [module, *argv], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
    found.append([status, said.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder into which pip has installed the wheel, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "scanmax", source / "scanmax", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    subprocess.run([sys.executable, *build, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    subprocess.run([sys.executable, *install, "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def type_in(tmp_path, installed):
    """Types a module and its words, a console script, or "-c" and code, in a fresh folder.

    Gives (status, what it said); variables of the environment may be set.
    """
    paths = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    # One device, as a user has.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    paths["XLA_FLAGS"] = " ".join(flags)

    def call(*words: str, **variables: str) -> tuple[int, str]:
        if words[0].startswith("scanmax-"):
            words = (installed / "bin" / words[0], *words[1:])
        else:
            words = (sys.executable, "-P", *(() if words[0] == "-c" else ("-m",)), *words)
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, **paths, **variables},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.fixture
def type_all(type_in):
    """Types commands one after another, in one process: imports are what most of them cost."""

    def call(*commands: tuple[str, ...]) -> list[tuple[int, str]]:
        status, told = type_in("-c", ALL, json.dumps(commands))
        assert status == 0, told
        lines = [line for line in told.splitlines() if line.startswith("[[")]
        return [tuple(each) for each in json.loads(lines[-1])]

    return call

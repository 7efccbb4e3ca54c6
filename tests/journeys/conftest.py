"""A user's terminal: commands typed in a fresh folder, where scanmax is an installed wheel."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder that holds what the wheel holds, as pip installs it, and nothing of the checkout."""
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
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def type_in(tmp_path, installed):
    """Types a command in a fresh folder: (status, what it printed)."""
    paths = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    # One device, as a user has.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    paths["XLA_FLAGS"] = " ".join(flags)

    def call(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", *words],
            cwd=tmp_path,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return call

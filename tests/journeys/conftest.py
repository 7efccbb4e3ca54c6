"""A user's terminal: commands typed in a fresh folder."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def type_in(tmp_path):
    """Types a command in a fresh folder: (status, what it printed)."""
    paths = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    # One device, as a user has.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    paths["XLA_FLAGS"] = " ".join(flags)

    def call(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return call

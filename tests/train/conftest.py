"""A run that nothing disturbed, which those that something did are held against."""

from unittest import mock

import fsspec
import pytest
from toy_run import MODEL, ToyData, last_state, shared_build, toy_config

from scanmax.train.loop import train


@pytest.fixture(autouse=True, scope="session")
def compiled_once():
    """Runs that are planned alike share what they compile."""
    with (
        mock.patch("scanmax.train.loop.build", shared_build),
        mock.patch("scanmax.train.seeds.build", shared_build),
    ):
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """(workdir, held-out metrics, final state) of ten steps."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    held_out = train(toy_config(), workdir, pipeline=ToyData(), model=MODEL)
    return workdir, held_out, last_state(workdir, toy_config())[0]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An empty bucket, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()

"""Compiled programs that runs keep: where they lie, and what goes when they are many."""

import os

import jax
import pytest

from scanmax.errors import UserError
from scanmax.train import programs


@pytest.fixture
def untold():
    """JAX as it is where nothing says where programs are kept."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    told = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in told.items():
        jax.config.update(name, value)


def test_they_lie_in_the_users_cache_by_processor(tmp_path, monkeypatch, untold):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = programs.keep_programs()
    assert folder == tmp_path / "scanmax/programs" / programs.processor()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    # Told once, it stays; a folder that is named counts.
    assert programs.keep_programs() is None
    assert programs.keep_programs(str(tmp_path / "own")).parent == tmp_path / "own"


def test_how_long_a_kept_program_compiled_is_the_users_to_say(tmp_path, monkeypatch, untold):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    monkeypatch.setenv(programs.TOLD, "7")
    programs.keep_programs(str(tmp_path))
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0
    monkeypatch.delenv(programs.TOLD)
    programs.keep_programs(str(tmp_path))
    assert jax.config.jax_persistent_cache_min_compile_time_secs == programs.WORTH


def test_off_keeps_none(tmp_path, monkeypatch, untold):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.keep_programs("off") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_where_it_was_named(tmp_path, monkeypatch, untold):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--compile_cache=.*file: Not a directory"):
        programs.keep_programs(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert programs.keep_programs() is None


def test_the_longest_unused_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    programs.drop_unused(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}

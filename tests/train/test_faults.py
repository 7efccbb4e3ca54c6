"""Faults of disks, clocks, data, numbers and neighbours; docs/reliability.md is the promise."""

import errno
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import chex
import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, copy, last_state, rows, shared_build, toy_config

from scanmax.data import load, source, sources, synthetic
from scanmax.data.config import DataConfig
from scanmax.errors import UserError
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.loop import Stop, train
from scanmax.train.report import headline, read_rows
from scanmax.train.workdir import open_workdir

HERE = pathlib.Path(__file__).parent
HOLDS = """
import fcntl, sys, time
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("process 1 on elsewhere\\n")
lock.flush()
print("held", flush=True)
time.sleep(60)
"""


def run(workdir, **fields):
    return train(toy_config(**fields), workdir, pipeline=ToyData(), model=MODEL)


def test_a_lock_refuses_a_second_run_and_dies_with_its_process(tmp_path, monkeypatch):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / ".lock")], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            message = r"in use by another run \(process 1 on elsewhere\)"
            with pytest.raises(UserError, match=message):
                run(tmp_path)
            assert not (tmp_path / "config.json").exists()
        finally:
            holder.kill()
    with open_workdir(tmp_path, toy_config()):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")

    def refuse(lock, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot lock .* No locks available"):
        run(tmp_path)


def test_a_read_only_workdir_is_one_line(tmp_path, monkeypatch):
    # Root may write anywhere: the refusal of a read-only file system is put in its place.
    opened = pathlib.Path.open

    def refuse(path, mode="r", *args, **kwargs):
        if set(mode) & set("wa+"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot write to --workdir=.*: Read-only file system"):
        run(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts, or resizes, a file system of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size, first=False):
        options = f"size={size}" if first else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not resize("64k", first=True):
        pytest.skip("mounting a tmpfs is not permitted; test_main's full disk needs no mount")
    yield place, resize
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_the_run_continues_with_more(undisturbed, small_disk):
    place, resize = small_disk
    told = []
    for size in ("64k", "400k", "700k"):
        assert resize(size)
        try:
            run(place / "run")
        except (UserError, OSError) as error:
            told.append(str(error))
    assert told
    for line in told:
        assert "No space left" in line or "NO_SPACE" in line, line
    assert resize("64m")
    assert run(place / "run") == undisturbed[1]
    chex.assert_trees_all_equal(last_state(place / "run", toy_config())[0], undisturbed[2])


def test_a_clock_that_goes_back_changes_nothing(undisturbed, tmp_path, monkeypatch):
    workdir = copy(undisturbed, tmp_path, last=8)
    real, calls = time.time, []

    def backwards():
        calls.append(None)
        return real() - 3600.0 * len(calls)

    monkeypatch.setattr(time, "time", backwards)
    assert run(workdir) == undisturbed[1]
    monkeypatch.undo()
    assert calls
    chex.assert_trees_all_equal(last_state(workdir, toy_config())[0], undisturbed[2])
    found = read_rows(workdir / "metrics.jsonl")
    assert min(np.diff([row["time"] for row in found])) < 0
    (shown,) = [value for name, value, _ in headline(found, {}, {}, {}) if name == "time"]
    assert not shown.startswith("-")


def test_any_file_of_a_checkpoint_may_be_cut_or_lost(undisturbed, tmp_path, capsys):
    """One file at a time: restored is the newest state, or the one before with a warning."""
    config = toy_config()
    plan = shared_build(config, pipeline=ToyData(), model=MODEL, devices=jax.devices()[:1])
    newest = undisturbed[0] / "checkpoints" / "10"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 5
    fell_back = set()
    for name in files:
        for damage in ("cut", "lost"):
            place = tmp_path / "run"
            shutil.rmtree(place, ignore_errors=True)
            for step in ("8", "10"):
                shutil.copytree(undisturbed[0] / "checkpoints" / step, place / "checkpoints" / step)
            path = place / "checkpoints" / "10" / name
            if damage == "lost":
                path.unlink()
            else:
                os.truncate(path, path.stat().st_size // 2)
            with Checkpointer(place / "checkpoints", config.checkpoint) as checkpointer:
                state, meta = checkpointer.restore(plan.shapes, plan.shardings)
            err = capsys.readouterr().err
            if meta["step"] == 10:
                chex.assert_trees_all_equal(jax.device_get(state), undisturbed[2])
                continue
            assert meta["step"] == state.step == 8, (name, damage)
            assert "checkpoint 10 is damaged" in err, (name, damage)
            assert [path.name for path in (place / "damaged").iterdir()] == ["10.0"]
            fell_back.add((str(name), damage))
    # These hold the state. Others, such as the processes' parts that Orbax merged, are not read.
    held = {"meta/metadata", "state/_METADATA", "state/manifest.ocdbt"}
    held |= {str(name) for name in files if str(name).startswith("state/d/")}
    assert len(held) > 3
    assert {(name, "lost") for name in held} <= fell_back


def test_skipping_what_is_not_finite_leaves_the_state_and_has_a_bound(tmp_path, capsys):
    def config(max_skips):
        made = toy_config()
        made.optim.nonfinite, made.optim.max_skips = "skip", max_skips
        return made

    class Poisoned(ToyData):
        bad = (3, 6, 7)

        def train_iterator(self, start_step=0):
            for step, batch in enumerate(super().train_iterator(start_step), start_step + 1):
                if step in self.bad:
                    batch["image"][:] = np.inf
                yield batch

    held_out = train(config(2), tmp_path / "run", pipeline=Poisoned(), model=MODEL)
    assert np.isfinite(held_out["loss"])
    state, _ = last_state(tmp_path / "run", config(2))
    assert state.step == 10
    chex.assert_tree_all_finite(state)
    # The optimizer has counted the seven updates that were.
    counts = {int(leaf) for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf) == 0}
    assert counts == {7}
    found = read_rows(tmp_path / "run" / "metrics.jsonl")
    skipped = {row["step"]: row["skipped"] for row in found if row["split"] == "train"}
    assert skipped == {2: 0, 4: 1, 6: 1, 8: 1, 10: 0}
    assert all(np.isfinite(list(rows(tmp_path / "run").values())))
    err = capsys.readouterr().err
    assert "warning: loss is nan at step 7: update skipped (2 in a row, 2 may be)" in err
    # Step 6 was skipped and is not saved; 8, which was not, is.
    steps = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == [8, 10]
    # Nothing is saved among skips, and a second part of the run counts the same ones.
    Poisoned.bad = range(4, 11)
    for _ in range(2):
        with pytest.raises(UserError, match="loss is nan at step 9, as in the 5 steps before"):
            train(config(5), tmp_path / "other", pipeline=Poisoned(), model=MODEL)
        _, meta = last_state(tmp_path / "other", config(5))
        assert meta["step"] == 2


def test_a_bad_record_is_named_or_passed_over_in_the_same_order(monkeypatch, capsys):
    made = synthetic.open_source(
        DataConfig(kwargs={"examples": 16, "eval_examples": 4, "size": 4, "classes": 16})
    )

    class Broken:
        def __len__(self):
            return 16

        def __getitem__(self, index):
            if index in (5, 6):
                raise ValueError("not a JPEG")
            return made.train[index]

    broken = types.SimpleNamespace(**{**vars(made), "train": Broken()})
    broken = source.Source(**vars(broken))
    monkeypatch.setitem(sources.SOURCES, "broken", lambda config: broken)

    def labels(start, count, **fields):
        data = DataConfig(name="broken", **fields)
        batches = load(data, seed=0, batch_size=8).train_iterator(start)
        return [next(batches)["label"].tolist() for _ in range(count)]

    with pytest.raises(
        UserError, match=r"record [56] of the training part of 'broken' cannot be read \(ValueError"
    ):
        labels(0, 2)
    with pytest.raises(UserError, match="max_bad_records=2"):
        labels(0, 2, max_bad_records=1)
    whole = labels(0, 4, max_bad_records=2)
    assert labels(2, 2, max_bad_records=2) == whole[2:]
    shown = np.bincount(np.ravel(whole), minlength=16)
    assert shown.tolist() == [2, 2, 2, 2, 2, 0, 0, 6, *[2] * 8]
    warnings = capsys.readouterr().err
    assert "record 6 of the training part of 'broken' cannot be read" in warnings


@pytest.fixture
def hang(monkeypatch):
    """Hangs until the test ends, and sends this process a SIGTERM once it waits."""
    over = threading.Event()
    monkeypatch.setattr(Stop, "PATIENCE", 0.5)

    def wait(waits=lambda: True):
        while not waits():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait()

    yield wait
    over.set()


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_sigterm_while_data_hang_keeps_what_was_trained(undisturbed, tmp_path, capsys, hang, part):
    class Hangs(ToyData):
        def train_iterator(self, start_step=0):
            for step, batch in enumerate(super().train_iterator(start_step), start_step + 1):
                if part == "training" and step == 8:
                    hang(lambda: (tmp_path / "metrics.jsonl").exists() and 6 in rows(tmp_path))
                yield batch

        def eval_batches(self):
            for batch in super().eval_batches():
                yield batch
                if part == "evaluation":
                    hang()

    assert train(toy_config(), tmp_path, pipeline=Hangs(), model=MODEL) == {}
    # Whoever was in an evaluation ends at its step, without its figures.
    step = {"training": 7, "evaluation": 5}[part]
    assert f"stopped by a signal at step {step}; the same command" in capsys.readouterr().err
    assert last_state(tmp_path, toy_config())[1]["step"] == step
    run(tmp_path)
    chex.assert_trees_all_equal(last_state(tmp_path, toy_config())[0], undisturbed[2])


def test_data_that_end_or_exit_are_a_line(tmp_path):
    class Ends(ToyData):
        ending = "ends"

        def train_iterator(self, start_step=0):
            yield from itertools.islice(super().train_iterator(), 3)
            if self.ending == "exits":
                sys.exit(0)

    with pytest.raises(UserError, match="the training data end before the run"):
        train(toy_config(), tmp_path, pipeline=Ends(), model=MODEL)
    Ends.ending = "exits"
    with pytest.raises(UserError, match=r"what reads the data exits: SystemExit\(0\)"):
        train(toy_config(), tmp_path, pipeline=Ends(), model=MODEL)


def test_labels_outside_the_classes_are_a_line(tmp_path):
    class Labelled(ToyData):
        part, label, count = "training", 4, 1

        def relabel(self, batches, part):
            for batch in batches:
                if part == self.part:
                    batch["label"][: self.count] = self.label
                yield batch

        def train_iterator(self, start_step=0):
            return self.relabel(super().train_iterator(start_step), "training")

        def eval_batches(self):
            return self.relabel(super().eval_batches(), "held-out")

    for part, label, count, message in (
        ("training", 4, 1, r"training part of 'digits' holds label 4, outside the model's 4 cla"),
        ("held-out", -1, 16, "held-out part of 'digits' holds label -1: it is unlabelled"),
    ):
        Labelled.part, Labelled.label, Labelled.count = part, label, count
        with pytest.raises(UserError, match=message):
            train(toy_config(), tmp_path / f"{part}{count}", pipeline=Labelled(), model=MODEL)
    # What the data know of themselves is told before anything is compiled.
    unlabelled = ToyData()
    unlabelled.labelled = False
    with pytest.raises(UserError, match=r"held-out part of 'digits' is unlabelled .*\.eval_split"):
        build(toy_config(), pipeline=unlabelled, model=MODEL)
    # A head wider than the labels is taken, one that mixed labels do not fit is not.
    data = DataConfig(name="synthetic", image_size=4, kwargs={"classes": 3})
    data.augment.mixup = 0.5
    with pytest.raises(UserError, match="labels that mixing makes of 'synthetic' have 3 classes, "
                       "the model 4"):  # fmt: skip
        build(toy_config(data=data), model=MODEL)


PREPARES = """
import os, signal, sys
from scanmax.data import digits
from scanmax.data.__main__ import prepare
import tensorflow_datasets as tfds
encode, seen = tfds.core.writer.Writer.write, []
def write(*args, **kwargs):
    seen.append(None)
    if len(seen) == 700:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*args, **kwargs)
tfds.core.writer.Writer.write = write
prepare("digits", sys.argv[1])
"""


def test_a_killed_preparation_is_done_again(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", PREPARES, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    with pytest.raises(UserError, match="is not prepared"):
        load(DataConfig(data_dir=str(tmp_path)), seed=0, batch_size=8)
    from scanmax.data.__main__ import prepare

    assert "prepared in" in prepare("digits", str(tmp_path))
    assert load(DataConfig(data_dir=str(tmp_path)), seed=0, batch_size=8).num_train > 1000


def kill(tmp_path, kills, seed, life):
    command = [sys.executable, str(HERE / "kills.py"), str(tmp_path / "lives")]
    # One compile, the first life's, serves all. One device, as test_resume kills a run on eight.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    env = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = subprocess.run(
        [*command, str(kills), str(seed), life],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def test_three_kills_end_bit_for_bit_as_none(tmp_path):
    # test_resume kills what the other lives leave out: dropout and batch statistics.
    assert kill(tmp_path, 3, 1, "momentum")["kills"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("life", ["plain", "momentum", "taught"])
def test_a_hundred_kills_end_bit_for_bit_as_none(tmp_path, life):
    found = kill(tmp_path, 100, 0, life)
    assert found["kills"] == 100
    assert found["died"]["while a checkpoint was written"] > 10

"""Faults: what is killed, damaged or moved continues as if nothing had happened, or says so."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, copy, last_state, rows, toy_config

from scanmax.errors import UserError
from scanmax.train.loop import train
from scanmax.train.workdir import open_workdir
from tests.tolerances import SHARDED

HERE = pathlib.Path(__file__).parent

KILLED = """
import os, signal, sys
from toy_run import ToyData, ToyModel, toy_config
from scanmax.train.loop import train
class Killed(ToyData):
    def train_iterator(self, start_step=0):
        for step, batch in enumerate(super().train_iterator(start_step)):
            if step == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch
config = toy_config()
config.prefetch = 1
train(config, sys.argv[1], pipeline=Killed(), model=ToyModel(batch_norm=True, dropout_rate=0.2))
"""


class Interrupted(ToyData):
    """Sends this process a signal while batch 5 is read."""

    def train_iterator(self, start_step=0):
        for step, batch in enumerate(super().train_iterator(start_step), start_step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def test_a_run_leaves_what_it_promises(undisturbed):
    workdir, held_out, state = undisturbed
    assert state.step == 10
    assert sorted(rows(workdir)) == [2, 4, 6, 8, 10]
    assert rows(workdir, "eval") == {5: pytest.approx(1.5, abs=1.5), 10: held_out["loss"]}
    assert json.loads((workdir / "config.json").read_text())["optim"]["lr"] == 0.01
    assert list((workdir / "tensorboard").iterdir())
    saved = np.load(workdir / "predictions.npz")
    assert saved["confusion"].sum() == 21
    assert saved["images"].shape == (21, 4, 4, 1)
    accuracy = np.trace(saved["confusion"]) / 21
    assert held_out["accuracy"] == pytest.approx(accuracy)
    assert (saved["predictions"] == saved["labels"]).mean() == pytest.approx(accuracy)
    # The newest two, and the best of those that were evaluated.
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert kept == [8, 10]


def test_sigterm_saves_and_the_next_run_ends_bit_for_bit_the_same(undisturbed, tmp_path):
    assert train(toy_config(), tmp_path, pipeline=Interrupted(), model=MODEL) == {}
    _, meta = last_state(tmp_path, toy_config())
    assert meta["step"] < 10
    position = {"seed": 0, "next_step": meta["step"], "examples": 16 * meta["step"]}
    assert position.items() <= meta["data"].items()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    held_out = train(toy_config(), tmp_path, pipeline=ToyData(), model=MODEL)
    assert held_out == undisturbed[1]
    chex.assert_trees_all_equal(last_state(tmp_path, toy_config())[0], undisturbed[2])


def test_sigkill_resumes_bit_for_bit_from_the_last_complete_checkpoint(undisturbed, tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=HERE, capture_output=True, text=True
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    held_out = train(toy_config(), tmp_path, pipeline=ToyData(), model=MODEL)
    assert held_out == undisturbed[1]
    chex.assert_trees_all_equal(last_state(tmp_path, toy_config())[0], undisturbed[2])
    chex.assert_trees_all_close(rows(tmp_path), rows(undisturbed[0]))


def damage(folder):
    """Cuts every file of a checkpoint's arrays to half its length."""
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(undisturbed, tmp_path, capsys):
    workdir = copy(undisturbed, tmp_path)
    damage(workdir / "checkpoints" / "10")
    train(toy_config(), workdir, pipeline=ToyData(), model=MODEL)
    warning = capsys.readouterr().err
    assert "warning: checkpoint 10 is damaged" in warning
    assert "resuming at step 8" in warning
    chex.assert_trees_all_equal(last_state(workdir, toy_config())[0], undisturbed[2])
    assert (workdir / "damaged" / "10.0" / "state").is_dir()
    # Nothing readable: say so, keep everything.
    for step in ("8", "10"):
        damage(workdir / "checkpoints" / step)
    with pytest.raises(UserError, match=r"none of the checkpoints \[8, 10\] .* can be read"):
        train(toy_config(), workdir, pipeline=ToyData(), model=MODEL)
    assert (workdir / "checkpoints" / "8" / "state").is_dir()


@pytest.mark.parametrize("preset", ["fsdp", "fsdp_tp"])
def test_a_run_continues_on_another_mesh(undisturbed, tmp_path, preset):
    workdir = copy(undisturbed, tmp_path, last=8)
    config = toy_config()
    config.sharding.preset = preset
    held_out = train(config, workdir, pipeline=ToyData(), model=MODEL)
    assert held_out == pytest.approx(undisturbed[1], rel=SHARDED)
    chex.assert_trees_all_close(
        last_state(workdir, toy_config(), jax.devices()[:1])[0],
        undisturbed[2],
        rtol=SHARDED,
        atol=SHARDED,
    )
    assert rows(workdir) == pytest.approx(rows(undisturbed[0]), rel=SHARDED)


def test_a_spoilt_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match="loss is nan at step 7"):
        train(toy_config(), tmp_path, pipeline=ToyData(poison=7), model=MODEL)
    state, _ = last_state(tmp_path, toy_config())
    assert state.step == 6
    chex.assert_tree_all_finite(state.params)


def test_a_workdir_is_one_run_of_one_config(undisturbed, tmp_path):
    workdir = copy(undisturbed, tmp_path)
    other = toy_config()
    other.optim.weight_decay = 1.0
    with pytest.raises(UserError, match=r"another config \(optim\.weight_decay: 0\.1 -> 1\.0\)"):
        train(other, workdir, pipeline=ToyData(), model=MODEL)
    with open_workdir(workdir, toy_config()), pytest.raises(UserError, match="in use by another"):
        train(toy_config(), workdir, pipeline=ToyData(), model=MODEL)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to --workdir"):
        train(toy_config(), tmp_path / "file" / "run", pipeline=ToyData(), model=MODEL)


@pytest.mark.parametrize(
    ("duration", "told"),
    [
        ("11 steps", "cosine over 11 steps, not 10: step 11 is at "),
        ("4 steps", "the run has taken 10 steps, and '4 steps' are 4: nothing is trained"),
    ],
)
def test_a_longer_or_a_shorter_run_says_what_becomes_of_it(
    undisturbed, tmp_path, capsys, duration, told
):
    workdir = copy(undisturbed, tmp_path)
    config = toy_config(duration=duration)
    held_out = train(config, workdir, pipeline=ToyData(), model=MODEL)
    said = capsys.readouterr()
    assert f"from here on duration: '10 steps' -> '{duration}'" in said.out + said.err
    assert told in said.out + said.err
    state, _ = last_state(workdir, config)
    kept = json.loads((workdir / "config.json").read_text())["duration"]
    if duration == "4 steps":
        # Nothing is lost by a mistake: neither steps nor what the run was.
        assert (held_out, int(state.step), kept) == (undisturbed[1], 10, "10 steps")
    else:
        assert (int(state.step), kept) == (11, "11 steps")


def test_an_error_in_the_data_ends_the_run_with_its_own_words(tmp_path):
    class Broken(ToyData):
        def train_iterator(self, start_step=0):
            yield from [batch for batch, _ in zip(super().train_iterator(), range(3))]
            raise UserError("record 17 cannot be decoded")

    with pytest.raises(UserError, match="record 17 cannot be decoded"):
        train(toy_config(), tmp_path, pipeline=Broken(), model=MODEL)

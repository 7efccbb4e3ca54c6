"""Sweeps: settings x seeds in one command, and seeds in one compiled step equal to runs."""

import json

import chex
import numpy as np
import pytest
from toy_run import MODEL, ToyData, last_state, rows, toy_config

from scanmax import cli
from scanmax.train.loop import train
from scanmax.train.seeds import train_seeds
from scanmax.train.sweep import main
from tests.tolerances import SHARDED

FILE = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig

def get_config(arg=""):
    kwargs = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2}
    data = {"examples": 64, "eval_examples": 16, "size": 4, "classes": 4, "channels": 1}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="synthetic", kwargs=data),
        batch_size=16,
        duration="4 steps",
        eval_every="2 steps",
    )
"""


def test_settings_times_seeds_with_a_report(tmp_path, capsys):
    file, out = tmp_path / "experiment.py", tmp_path / "sweep"
    file.write_text(FILE)
    flags = [f"--config={file}", f"--workdir={out}", "--seeds=0,1", "--together"]
    flags += ["--run=optim.lr=1e-3", "--run=model.remat=nothing batch_size=8"]
    assert cli.run_main(main, flags) == 1
    told = capsys.readouterr()
    assert "optim.lr=1e-3" in told.out
    assert "failed: model.remat=nothing,batch_size=8/seed_0_1: unknown config.model" in told.out
    found = json.loads((out / "sweep.json").read_text())
    losses = found["runs"]["optim.lr=1e-3"]["loss"]
    values = [
        json.loads((out / "optim.lr=1e-3" / f"seed_{seed}" / "metrics.jsonl").read_text()
        .splitlines()[-1])["loss"] for seed in (0, 1)
    ]  # fmt: skip
    assert list(losses["seeds"].values()) == values
    assert losses["mean"] == pytest.approx(np.mean(values))
    assert losses["std"] == pytest.approx(np.std(values, ddof=1))
    page = (out / "sweep.html").read_text()
    assert "data:image/png;base64," in page
    assert "optim.lr=1e-3" in page
    assert (out / "sweep.png").stat().st_size > 10_000
    for wrong, message in (
        ("--run=optim.lrr=1", "did you mean 'lr'"),
        ("--run=optim.lr", "is not FIELD=VALUE"),
        ("--run=optim.lr=1e-3", "is given twice"),
        ("--seeds=a", "'a' is no seed"),
    ):
        assert cli.run_main(main, [*flags, wrong]) == 2
        assert message in capsys.readouterr().err


def test_seeds_in_one_step_equal_runs_of_their_own(tmp_path, undisturbed):
    config = toy_config()
    data = {seed: ToyData(seed=seed) for seed in (0, 3)}
    folders = {seed: tmp_path / str(seed) for seed in data}
    held_out = train_seeds(config, folders, pipelines=data, model=MODEL)
    alone = toy_config(seed=3)
    expected = train(alone, tmp_path / "alone", pipeline=data[3], model=MODEL)
    for seed, (workdir, metrics) in {
        0: undisturbed[:2],
        3: (tmp_path / "alone", expected),
    }.items():
        assert held_out[seed] == pytest.approx(metrics, rel=SHARDED)
        assert rows(folders[seed]) == pytest.approx(rows(workdir), rel=SHARDED)
        assert rows(folders[seed], "eval") == pytest.approx(rows(workdir, "eval"), rel=SHARDED)
        own = toy_config(seed=seed)
        ended, _ = last_state(folders[seed], own)
        chex.assert_trees_all_close(ended, last_state(workdir, own)[0], rtol=SHARDED, atol=SHARDED)
    assert held_out[0] != held_out[3]
    again = train_seeds(config, folders, pipelines=data, model=MODEL)
    assert again[3] == pytest.approx(held_out[3], rel=SHARDED)

"""Sweeps: settings x seeds in one command, and seeds in one compiled step equal to runs."""

import json
import re
import shutil
import urllib.parse

import chex
import numpy as np
import pytest
from toy_run import MODEL, ToyData, last_state, rows, toy_config

from scanmax import cli
from scanmax.train import build, seeds
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


@pytest.fixture
def sweep(tmp_path, capsys):
    """Runs the command line in this process: (status, stdout, stderr)."""
    file = tmp_path / "experiment.py"
    file.write_text(FILE)

    def call(*argv):
        # A flag and its value may be two words.
        status = cli.run_main(main, ["--config", str(file), "--workdir", str(tmp_path), *argv])
        return status, *capsys.readouterr()

    return call


def last_row(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def test_settings_times_seeds_with_a_report(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "train_seeds", fails_for("batch_size=8", seeds.train_seeds))
    flags = ["--seeds=0,1", "--together", "--run=batch_size=8", "--run=optim.lr=1e-3"]
    status, out, err = sweep(*flags)
    assert status == 1
    assert "optim.lr=1e-3" in out
    assert "failed: batch_size=8/seed_0_1: RuntimeError: out of memory" in out
    assert "Traceback" in err
    found = json.loads((tmp_path / "sweep.json").read_text())
    losses = found["runs"]["optim.lr=1e-3"]["loss"]
    values = [last_row(tmp_path / "optim.lr=1e-3" / f"seed_{seed}")["loss"] for seed in (0, 1)]
    assert list(losses["seeds"].values()) == values
    assert losses["mean"] == pytest.approx(np.mean(values))
    assert losses["std"] == pytest.approx(np.std(values, ddof=1))
    page = (tmp_path / "sweep.html").read_text()
    assert "data:image/png;base64," in page
    assert "optim.lr=1e-3" in page
    assert "out of memory" in page
    # Each seed leads to its report; what failed has none.
    links = re.findall(r'href="([^"]+)"', page)
    assert links == [f"optim.lr%3D1e-3/seed_{seed}/report.html" for seed in (0, 1)]
    assert all((tmp_path / urllib.parse.unquote(link)).is_file() for link in links)
    assert "parameters" in out
    (best,) = found["ranking"]
    assert (best, found["ranked_by"]) == ("optim.lr=1e-3", "accuracy")
    record = json.loads((tmp_path / best / "seed_0" / "run.json").read_text())
    assert found["costs"][best]["parameters"] == record["parameters"] > 0
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def fails_for(name, function):
    """The function, which for one run ends as a program with a fault does."""

    def call(config, folders):
        if any(name in str(folder) for folder in folders.values()):
            raise RuntimeError("out of memory")
        return function(config, folders)

    return call


def test_every_mistake_is_told_before_anything_trains(sweep, tmp_path):
    good = "--run=optim.lr=1e-3"
    for words, messages in (
        (["--run=optim.lrr=1"], ["did you mean 'lr'"]),
        (["--run=optim.lr"], ["is not FIELD=VALUE"]),
        (["--run=optim.lr='1"], ["No closing quotation"]),
        ([good], ["is given twice"]),
        (["--seeds=a"], ["'a' is no seed"]),
        (["--seeds=1,01"], ["names a seed twice"]),
        (["--seeds=1", "--run=seed=5"], ["names a seed, and so does --seeds"]),
        (["--seeds=1", "--config.seed=5"], ["--config.seed names a seed"]),
        (["--run=model.remat=nothing", "--run=model.name=vit"], [
            "2 of 3 runs cannot be trained: model.remat=nothing: unknown config.model.remat",
            "model.name=vit: ",
        ]),
    ):  # fmt: skip
        status, _, err = sweep(good, *words)
        (line,) = err.splitlines()
        assert status == 2
        assert line.startswith("error: ")
        assert all(message in line for message in messages), line
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"experiment.py"}


def test_a_run_may_name_its_seed(sweep, tmp_path):
    short = ["--config.duration", "1 step", "--config.model.kwargs.dim=8"]
    short.append("--config.log.report=False")
    status, out, err = sweep(*short, "--run=seed=5", "--run=optim.lr=1e-2")
    assert status == 0, err
    # A single seed deviates from nothing.
    assert "±" not in out
    folders = {path.parent.name: path for path in tmp_path.glob("*/seed_*")}
    assert {name: path.name for name, path in folders.items()} == {
        "seed=5": "seed_5",
        "optim.lr=1e-2": "seed_0",
    }
    own = json.loads((folders["seed=5"] / "config.json").read_text())
    assert (own["seed"], own["duration"]) == (5, "1 step")
    # Another config in a workdir is a mistake like any other.
    status, _, err = sweep(*short[:2], "--run=seed=5")
    assert status == 2
    assert "1 of 1 runs cannot be trained: seed=5: --workdir=" in err.splitlines()[-1]


def test_a_sweep_goes_on_in_a_bucket(sweep, bucket, tmp_path):
    url = "memory://bucket/rates"
    small = ("--config.duration=1 step", "--config.model.kwargs.dim=8", "--config.log.report=False")
    words = (f"--workdir={url}", *small, "--run=optim.lr=1e-2")
    status, out, err = sweep(*words)
    assert status == 0, err
    assert out.splitlines()[-1] == f"report       {url}/sweep.html"
    names = {name.removeprefix("/bucket/rates/") for name in bucket.find("/bucket")}
    run = "optim.lr=1e-2/seed_0"
    assert {"sweep.html", "sweep.json", "sweep.png", f"{run}/config.json"} <= names
    assert {name.split("/")[3] for name in names if "/checkpoints/" in name} == {"1"}
    assert b"<h1>rates</h1>" in bucket.cat("/bucket/rates/sweep.html")
    # Another machine has none of it but the bucket, and goes on from there.
    shutil.rmtree(tmp_path / "cache")
    status, again, err = sweep(*words)
    assert (status, again) == (0, out)
    assert "resuming at step 1" in err
    # A mistake leaves nothing there.
    status, _, err = sweep(*words[1:], "--workdir=memory://bucket/others", "--run=model.name=vit")
    assert status == 2
    assert not bucket.exists("/bucket/others")


def test_seeds_in_one_step_equal_runs_of_their_own(tmp_path, undisturbed, monkeypatch):
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
    # One after the other they share what is compiled, and are the same too.
    first = build.build(config, pipeline=data[0], model=MODEL)
    monkeypatch.setattr(build, "load_data", lambda *args: data[3])
    metrics = train(alone, tmp_path / "like", like=first)
    assert metrics == pytest.approx(expected, rel=SHARDED)
    assert rows(tmp_path / "like") == pytest.approx(rows(tmp_path / "alone"), rel=SHARDED)
    assert json.loads((tmp_path / "like" / "config.json").read_text())["seed"] == 3

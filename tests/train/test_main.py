"""The command line: a run that ends well, and every mistake told in one line with status 2."""

import json
import os
import subprocess
import sys

import pytest

from scanmax import cli
from scanmax.data.__main__ import prepare
from scanmax.train.__main__ import main

# Drawing takes longer than these runs.
NO_REPORT = "--config.log.report=False"
FILE = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig

def get_config(arg=""):
    kwargs = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="digits"),
        batch_size=256,
        duration="4 steps",
        eval_every="2 steps",
    )
"""


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    """The digits, prepared where only this module looks."""
    path = str(tmp_path_factory.mktemp("tfds"))
    prepare("digits", path)
    return path


@pytest.fixture
def run(tmp_path, capsys, data_dir):
    """Runs the command line in this process: (status, lines on stderr)."""
    file = tmp_path / "experiment.py"
    file.write_text(FILE)

    def call(*argv: str) -> tuple[int, list[str]]:
        where = tmp_path / "run"
        flags = [f"--config={file}", f"--config.data.data_dir={data_dir}", f"--workdir={where}"]
        status = cli.run_main(main, [*flags, *argv])
        return status, capsys.readouterr().err.splitlines()

    return call


def test_a_run_ends_well_and_a_second_one_has_nothing_to_do(run, tmp_path):
    # A mistake leaves the workdir to whatever comes next.
    status, lines = run("--config.model.kwargs.dim=48", "--config.model.kwargs.heads=5")
    assert status == 2, lines
    assert not (tmp_path / "run" / "config.json").exists()
    status, lines = run()
    assert status == 0, lines
    assert any("step 4/4" in line for line in lines)
    for name in ("config.json", "metrics.jsonl", "predictions.npz", "report.html", "checkpoints/4"):
        assert (tmp_path / "run" / name).exists(), name
    status, lines = run(NO_REPORT)
    assert status == 0
    assert "resuming at step 4" in lines
    status, lines = run("--config.model.kwargs.dim=32")
    assert status == 2
    assert "another config (model.kwargs.dim" in lines[0]
    assert "in which only sharding, checkpoint, duration," in lines[0]
    status, lines = run("--config.duration=5 steps", "--config.optim.lr=1e-4", NO_REPORT)
    assert status == 0
    assert "from here on duration: '4 steps' -> '5 steps', optim.lr: 0.001 -> 0.0001" in lines


def test_muon_trains_by_its_name(run, tmp_path):
    flags = "--config.optim.name=muon", "--config.optim.weight_decay=0.1"
    status, lines = run(*flags, "--config.duration=1 step", NO_REPORT)
    assert status == 0, lines
    assert any("step 1/1" in line for line in lines)
    assert json.loads((tmp_path / "run/config.json").read_text())["optim"]["name"] == "muon"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.model.name=convnext_tny", "did you mean 'convnext_tiny'"),
        ("--config.model.kwargs.dpeth=2", "has no field 'dpeth'; did you mean 'depth'"),
        ("--config.model.kwargs.mixer=atention", "did you mean 'attention'"),
        ("--config.data.name=digitz", "did you mean 'digits'"),
        ("--config.data.data_dir=/nonexistent", "scanmax.data prepare digits"),
        ("--config.batch_size=100", "batch_size=100 is not divisible by the mesh"),
        ("--config.sharding.preset=fsdpp", "did you mean 'fsdp'"),
        ("--config.optim.name=adamv", "did you mean 'adam"),
        ("--config.schedule.name=cosin", "did you mean 'cosine'"),
        ("--config.objective.loss=cross_entropy", "or 'softmax_cross_entropy'"),
        ("--config.objective.loss_kwargs.tau=1", "'softmax_cross_entropy' has no option 'tau'"),
        ("--config.objective.name=clasification", "did you mean 'classification'"),
        ("--config.objective.terms=(('kdd', {}),)", "did you mean 'kd'"),
        ("--config.objective.terms=(('kd', {'temprature': 2}),)", "did you mean 'temperature'"),
        ("--config.objective.terms=('kd',)", "config.objective.teachers names none"),
        ("--config.objective.kwargs.x=1", "has no option 'x'"),
        ("--config.optim.gradient=plan", "did you mean 'plain'"),
        ("--config.evaluators=('knnn',)", "config.evaluators='knnn'"),
        ("--config.transforms=(3,)", "is no pair of a name and its options"),
        ("--config.model.remat=nothing", "nothing_saveable"),
        ("--config.optim.freeze=('hed',)", "matches no parameter"),
        ("--config.checkpoint.metric=acuracy", "acuracy"),
        ("--config.objective.name=language_model", "needs tokens data"),
        ("--config.duration=0", "is no step at all"),
        ("--config.optim.clip_norm=-1", "config.optim.clip_norm=-1.0 must be at least 0"),
        ("--config.data.kwargs.sise=3", "'digits' has no options"),
        ("--config.model.kwargs.depth=0", "depth=0 must be at least 1"),
        ("--config.model.kwargs.dropout_rate=2", "dropout_rate=2 must be in [0, 1]"),
        ("--config.model.kwargs.heads=0", "heads=0 must be at least 1"),
        ("--config.checkpoint.mode=max", "the best 'loss' is its min"),
        ("--config.schedule.warmup=200%", "'200%' is more than the whole run"),
        ("--profile=5", "write FIRST:LAST"),
        ("--process_id=1", "--process_id"),
        ("--num_processes=2", "--coordinator=HOST:PORT"),
        ("--coordinator=host:abc", "--coordinator=host:abc: write HOST:PORT"),
        ("--lost_after=-100", "--lost_after=-100 must be between 3 and"),
        ("--workdir=", "--workdir=DIR is required"),
        ("--workdir=/proc/nowhere/run", "cannot write to --workdir"),
        ("--workdir=nowhere://bucket/run", "nowhere://bucket/run cannot be opened: Protocol"),
        ("--from=runs/nothing", "--from=runs/nothing is not there"),
    ],
)
def test_mistakes_are_one_line(run, argument, expected):
    status, lines = run(argument)
    assert status == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def test_labels_without_a_class_are_one_line(run):
    status, lines = run("--config.model.num_classes=5")
    assert status == 2
    said = "the training part of 'digits' holds label 9, outside the model's 5 classes (0 to 4)"
    assert lines[-1] == f"error: {said}"
    assert not any("step 1/4" in line for line in lines)


def test_a_full_disk_is_one_line_and_keeps_what_is_complete(run, tmp_path, data_dir):
    """A limit on the size of files stands for the full disk: the checkpoint cannot be written."""
    status, _ = run("--config.checkpoint.keep=9", "--config.duration=2 steps", NO_REPORT)
    assert status == 0
    script = (
        "import resource, sys; from scanmax import cli; from scanmax.train.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY));"
        "sys.exit(cli.run_main(main))"
    )
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    one_device = {"XLA_FLAGS": " ".join(flags)}
    found = subprocess.run(
        [
            sys.executable, "-c", script, f"--config={tmp_path / 'experiment.py'}",
            f"--config.data.data_dir={data_dir}", f"--workdir={tmp_path / 'run'}",
            "--config.duration=4 steps", "--config.checkpoint.every=2 steps",
            "--config.checkpoint.keep=9", NO_REPORT,
        ],
        capture_output=True, text=True, check=False,
        # The limit would cut the entries of a compile cache as well.
        env={key: value for key, value in os.environ.items() if "CACHE" not in key} | one_device,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, found.stderr
    assert "Traceback" not in found.stderr
    assert "the last complete one is step 2" in errors[0]
    status, lines = run("--config.duration=4 steps", NO_REPORT)
    assert status == 0
    assert "resuming at step 2" in lines

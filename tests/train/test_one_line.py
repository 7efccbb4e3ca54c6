"""What a user met as a traceback, or as nothing at all, is one line and a status."""

import errno
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from toy_run import MODEL, ToyData, ToyModel, copy, shared_build, toy_config

from scanmax import cli, files
from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.evaluation import save_outcome
from scanmax.train.export import main as export
from scanmax.train.log import Log
from scanmax.train.loggers import TensorBoard
from scanmax.train.loop import train
from scanmax.train.report import main as report


def one_line(capsys, main, *argv):
    """Status and the only line of an error."""
    status = cli.run_main(main, list(argv))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return status, lines[0]


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["sys.exit(0)", "sys.exit()", "exit('no')"])
def test_a_config_that_exits_is_an_error(tmp_path, capsys, call):
    path = tmp_path / "experiment.py"
    path.write_text(f"import sys\ndef get_config(arg=''):\n    {call}\n")
    status, line = one_line(capsys, lambda argv: cli.parse_flags(argv), f"--config={path}")
    assert status == 2
    assert "experiment.py:3: SystemExit" in line


def test_ctrl_c_and_exits_of_code_that_a_user_brought(capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    assert cli.run_main(interrupted, []) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
    status, line = one_line(capsys, lambda argv: sys.exit(0))
    assert status == 2
    assert "sys.exit(0)" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path, capsys, number):
    class Early(ToyData):
        def train_iterator(self, start_step=0):
            os.kill(os.getpid(), number)
            return super().train_iterator(start_step)

    before = signal.getsignal(number)
    assert train(toy_config(), tmp_path, pipeline=Early(), model=ToyModel()) == {}
    assert "stopped by a signal before the first step" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert not (tmp_path / "config.json").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_data_that_end_or_exit_end_the_run(tmp_path):
    class Ends(ToyData):
        how = StopIteration

        def train_iterator(self, start_step=0):
            for step, batch in enumerate(super().train_iterator(start_step)):
                if step == 1:
                    if self.how is StopIteration:
                        return
                    raise self.how(0)
                yield batch

    for how, expected in (
        (StopIteration, "the training data end before the run"),
        (SystemExit, r"what reads the data exits: SystemExit\(0\)"),
    ):
        Ends.how = how
        with pytest.raises(UserError, match=expected):
            train(toy_config(), tmp_path / how.__name__, pipeline=Ends(), model=ToyModel())


def test_a_workdir_that_is_removed_is_named(tmp_path):
    workdir = tmp_path / "run"

    class Removes(ToyData):
        def train_iterator(self, start_step=0):
            for step, batch in enumerate(super().train_iterator(start_step)):
                if step == 3:
                    shutil.rmtree(workdir)
                yield batch

    config = toy_config(prefetch=1)
    with pytest.raises(UserError, match="removed under the run"):
        train(config, workdir, pipeline=Removes(), model=ToyModel())


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_whole(path, "old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*config\.json: No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["config.json"]


def test_a_full_disk_names_the_file_and_the_step(tmp_path, monkeypatch):
    log = Log(tmp_path, start=0, total=9, stream=io.StringIO())
    log._file.close()
    expected = "cannot write metrics of step 7 to /dev/full: No space left on device"
    with pathlib.Path("/dev/full").open("ab", buffering=0) as log._file:
        with pytest.raises(UserError, match=expected):
            log.write(7, "train", {"loss": 1.0})
        log.close()
    # TensorBoard's file is written here too, by no thread that would fail unseen.
    board = TensorBoard()
    log = Log(tmp_path, start=0, total=9, stream=io.StringIO(), loggers=[board])
    monkeypatch.setattr(board._writer, "flush", full)
    with pytest.raises(UserError, match=r"cannot write metrics of step 8 to .*metrics\.jsonl"):
        log.write(8, "train", {"loss": 1.0})
    monkeypatch.setattr(board._writer, "close", full)
    log.close()


def test_the_report_of_a_damaged_workdir(undisturbed, tmp_path, capsys):
    workdir = copy(undisturbed, tmp_path)
    path = workdir / "metrics.jsonl"
    path.write_bytes(
        path.read_bytes() + b'3\n[]\n{"step": 3}\n{"step": 3, "split": "train", "time": "x"}\n\xff{'
    )
    assert cli.run_main(report, [str(workdir)]) == 0
    assert "warning" not in capsys.readouterr().err
    for name, content in (
        ("predictions.npz", (workdir / "predictions.npz").read_bytes()[:-300]),
        ("predictions.npz", b""),
        ("sample.json", b"{"),
        ("sample.json", b"[3]"),
        ("sample.json", b'{"text": 3}'),
        ("config.json", b"{"),
    ):
        (workdir / name).write_bytes(content)
        assert cli.run_main(report, [str(workdir)]) == 0
        assert f"{name} is damaged" in capsys.readouterr().err
    (workdir / "predictions.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    assert cli.run_main(report, [str(workdir)]) == 0
    # A run goes on over rows that are damaged, and writes all of it anew.
    assert train(toy_config(), workdir, pipeline=ToyData(), model=MODEL) == undisturbed[1]
    capsys.readouterr()
    assert cli.run_main(report, [str(workdir)]) == 0
    assert "predictions" not in capsys.readouterr().err
    path.write_bytes(b"\x00" * 100)
    status, line = one_line(capsys, report, str(workdir))
    assert status == 2
    assert "holds no row yet" in line


def test_the_report_of_an_extended_run_leaves_out_what_is_of_before(undisturbed, tmp_path, capsys):
    workdir = copy(undisturbed, tmp_path)
    assert int(np.load(workdir / "predictions.npz")["step"]) == 10
    cli.run_main(report, [str(workdir)])
    assert "wrong</span>" in (workdir / "report.html").read_text()
    with (workdir / "metrics.jsonl").open("a") as file:
        row = {"step": 15, "split": "eval", "time": 2e9, "loss": 1.0, "accuracy": 0.5}
        file.write(json.dumps(row) + "\n")
    assert cli.run_main(report, [str(workdir)]) == 0
    assert "predictions.npz is of step 10, not 15: left out" in capsys.readouterr().err
    assert "wrong</span>" not in (workdir / "report.html").read_text()


def test_an_outcome_that_finds_no_room_says_of_which_step(tmp_path, monkeypatch):

    run = shared_build(toy_config(), pipeline=ToyData(), model=ToyModel())
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"predictions\.npz: No space left on device; .* step 0"):
        save_outcome(run, run.init(), tmp_path)


def test_exports_for_platforms_that_are_none(undisturbed, capsys, monkeypatch):
    from scanmax.train import export as module

    monkeypatch.setattr(
        module,
        "load_for_inference",
        lambda workdir, step: module.Trained(MODEL, {}, toy_config(), 10, {}),
    )
    for flag, expected in (
        ("--platforms=gpu", "unknown platform 'gpu': cpu, cuda, rocm, tpu are known"),
        ("--platforms=cpu,tpv", "unknown platform 'tpv'"),
        ("--batch_size=-1", "--batch_size=-1 must be at least 0"),
    ):
        status, line = one_line(capsys, export, str(undisturbed[0]), flag)
        assert status == 2
        assert expected in line


SLEEPS = """
import signal, sys, time
from scanmax import cli
def main(argv):
    print("begun", flush=True)
    time.sleep(60)
sys.exit(cli.run_main(main))
"""


def test_ctrl_c_ends_any_command_in_a_line():
    # A shell that runs the suite in the background has its children ignore Ctrl-C.
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopped by Ctrl-C\n")

"""Worker processes at the command line: they serve, they are missed, and none outlives its run."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import pytest

from scanmax import cli
from scanmax.data.__main__ import prepare
from scanmax.train.__main__ import main

FILE = """
import dataclasses, os, time

from scanmax.data import sources, synthetic
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig

HANG = os.environ.get("HANG", "")

class Hangs:
    def __init__(self, elements):
        self.elements = elements

    def __len__(self):
        return len(self.elements)

    def __getitem__(self, index):
        while os.path.exists(HANG):
            time.sleep(0.1)
        time.sleep(0.002)
        return self.elements[index]

def hangs(config):
    opened = synthetic.open_source(config)
    return dataclasses.replace(opened, train=Hangs(opened.train))

sources.SOURCES["hangs"] = hangs

def get_config(arg=""):
    kwargs = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
    data = {"examples": 64, "eval_examples": 16, "size": 8, "channels": 1}
    config = Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name=arg, kwargs=data if arg == "hangs" else {}),
        batch_size=16,
        duration="100000 steps",
        log_every="1 step",
        eval_every="",
    )
    config.checkpoint.every = ""
    return config
"""

# Seconds that a process may take to start on a busy machine.
PATIENCE = 300


class Command:
    """One command line of training, run again and again in processes of its own."""

    def __init__(self, folder, *argv):
        (folder / "experiment.py").write_text(FILE)
        self.workdir, self.hang = folder / "run", folder / "hang"
        self._argv = [f"--workdir={self.workdir}", *argv]
        # The mark is inherited, so that what is left of a run is found by it.
        self._mark = f"SCANMAX_TEST_RUN={uuid.uuid4()}"
        self._env = {**os.environ, "HANG": str(self.hang)}
        self._env |= dict([self._mark.split("=")])
        flags = os.environ.get("XLA_FLAGS", "").split()
        self._env["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
        self._env["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        self._env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def start(self, *argv) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "scanmax.train", *self._argv, *argv],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def step(self) -> int:
        """The last step that the run has logged."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def wait_for_steps(self, process, count=3) -> None:
        first, deadline = self.step(), time.monotonic() + PATIENCE
        while self.step() < first + count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def processes(self) -> dict[int, str]:
        """Number and command line of what runs under the mark."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(path.name)] = command
            except OSError:
                continue
        return found

    def workers(self) -> list[int]:
        return [number for number, command in self.processes().items() if "spawn_main" in command]

    def assert_nothing_is_left(self, seconds=10.0) -> None:
        deadline = time.monotonic() + seconds
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.1)

    def clear(self) -> None:
        for number in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@pytest.fixture
def command(tmp_path):
    """Makes a Command in tmp_path; what a failed test leaves is ended."""
    with contextlib.ExitStack() as stack:

        def make(*argv):
            made = Command(tmp_path, *argv)
            stack.callback(made.clear)
            return made

        yield make


def ends(process, status) -> list[str]:
    """Lines on stderr of a process that ends so."""
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, told
    assert "Traceback" not in told
    return told.splitlines()


def test_workers_hang_are_killed_and_leave_with_their_run(command, tmp_path):
    command = command(f"--config={tmp_path}/experiment.py:hangs", "--config.log.report=False")
    # Data hang, then SIGTERM: what has been trained is saved.
    process = command.start("--config.data.workers=1")
    command.wait_for_steps(process)
    assert len(command.workers()) == 1
    command.hang.touch()
    time.sleep(1.0)
    # To the whole group, as schedulers and terminals do: workers leave it to the run.
    os.killpg(process.pid, signal.SIGTERM)
    began = time.monotonic()
    lines = ends(process, 0)
    assert time.monotonic() - began < 60
    stopped = command.step()
    assert lines[-1] == f"stopped by a signal at step {stopped}; the same command continues"
    assert (command.workdir / "checkpoints" / str(stopped)).is_dir()
    command.assert_nothing_is_left()
    # A worker is killed: the run ends in a line, and the other worker with it.
    command.hang.unlink()
    process = command.start("--config.data.workers=2")
    command.wait_for_steps(process)
    assert len(command.workers()) == 2
    os.kill(command.workers()[0], signal.SIGKILL)
    lines = ends(process, 2)
    assert f"resuming at step {stopped}" in lines
    (error,) = [line for line in lines if line.startswith("error:")]
    assert "ended with exit code -9 (killed, as the system does when memory runs out)" in error
    assert "config.data.workers=2" in error
    command.assert_nothing_is_left()
    # The run itself is killed: its workers do not wait for it, those that hang least.
    process = command.start("--config.data.workers=1")
    command.wait_for_steps(process)
    command.hang.touch()
    process.kill()
    process.communicate()
    command.assert_nothing_is_left()


def test_a_read_that_hangs_in_a_thread_does_not_hold_the_end_back(command, tmp_path):
    command = command(f"--config={tmp_path}/experiment.py:hangs")
    process = command.start()
    command.wait_for_steps(process)
    command.hang.touch()
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    lines = ends(process, 0)
    assert time.monotonic() - began < 60
    assert lines[-1].startswith(f"stopped by a signal at step {command.step()};")


def test_workers_train_what_threads_train(command, tmp_path, capsys):
    prepare("digits", str(tmp_path / "data"))
    flags = [
        f"--config={tmp_path}/experiment.py:digits", f"--config.data.data_dir={tmp_path}/data",
        "--config.duration=4 steps", "--config.eval_batch_size=80",
        "--config.data.augment.translate=1.0", "--config.log.report=False",
    ]  # fmt: skip
    command = command(*flags, "--config.data.workers=2")
    process = command.start()
    out, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert "held out: accuracy" in out
    # Nothing but the run's own words: no library warns once per worker.
    assert not [line for line in told.splitlines() if "WARNING" in line or "warning" in line]
    command.assert_nothing_is_left()
    assert cli.run_main(main, [f"--workdir={tmp_path}/threads", *flags]) == 0
    capsys.readouterr()
    rows = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (command.workdir, tmp_path / "threads")
    ]
    assert len(rows[0]) == 5
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)

"""Two processes of four devices train what one process of eight trains, to the same checkpoint."""

import ast
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import pytest
from toy_run import ToyData, ToyModel, toy_config

from scanmax.errors import UserError
from scanmax.train import processes, rendezvous
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.loop import train
from scanmax.train.processes import start_processes
from tests.tolerances import SHARDED

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# Seconds that a process may take to start on a busy machine.
PATIENCE = 300
SCRIPT = """
import sys, time
from scanmax.train.processes import start_processes
index, port, workdir, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
start_processes("localhost:" + port, 2, index, lost_after=8.0)
import jax
assert jax.device_count() == 8 and jax.local_device_count() == 4
from scanmax import cli
from toy_run import ToyData, ToyModel, toy_config
from scanmax.train.loop import Stop, train
Stop.PATIENCE_OF_MANY = 1.0
class Half(ToyData):
    def _mine(self, batches):
        half = self.batch_size // 2
        for batch in batches:
            time.sleep(seconds)
            yield {name: rows[index * half : (index + 1) * half] for name, rows in batch.items()}
    def train_iterator(self, start_step=0):
        return self._mine(super().train_iterator(start_step))
    def eval_batches(self):
        return self._mine(super().eval_batches())
    def train_eval_batches(self):
        return self._mine(super().train_eval_batches())
config = toy_config(evaluators=(("knn", {"k": 3}), "linear_probe"))
config.sharding.preset = "fsdp"
cli.leave(cli.run_main(lambda _: print(train(config, workdir, pipeline=Half(), model=ToyModel()))))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def launch(*commands):
    """Starts a Python process of four devices for each list of arguments."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags.append("--xla_force_host_platform_device_count=4")
    env = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, *argv], cwd=HERE, env=env, **pipes) for argv in commands
    ]


def start(workdir, seconds=0.0):
    """Starts both processes; every batch takes so many seconds to read."""
    rest = [free_port(), str(workdir), str(seconds)]
    return launch(*(["-c", SCRIPT, str(index), *rest] for index in range(2)))


def errors(both):
    """The one line in which each process ends."""
    found = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], found
    lines = [[line for line in said.splitlines() if "error" in line.lower()] for said in found]
    assert [len(own) for own in lines] == [1, 1], found
    return [line for (line,) in lines]


def run_two(workdir):
    """What both processes of a run print."""
    both = start(workdir)
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs[0][1] + outputs[1][1]
    return outputs


def run_one(workdir):
    """The same run in this process; its held-out metrics."""
    config = toy_config(evaluators=(("knn", {"k": 3}), "linear_probe"))
    config.sharding.preset = "fsdp"
    return train(config, workdir, pipeline=ToyData(), model=ToyModel())


def end_state(workdir):
    """The state at step 10."""
    config = toy_config()
    config.sharding.preset = "fsdp"
    run = build(config, pipeline=ToyData(), model=ToyModel())
    with Checkpointer(workdir / "checkpoints", config.checkpoint) as checkpointer:
        state, meta = checkpointer.restore(run.shapes, run.shardings)
    assert meta["step"] == 10
    return jax.device_get(state)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(workdir, held-out metrics) of the run in one process of eight devices."""
    workdir = tmp_path_factory.mktemp("processes") / "one"
    return workdir, run_one(workdir)


def test_two_processes_equal_one_and_one_resumes_them(one, tmp_path):
    outputs = run_two(tmp_path / "two")
    # Both know the exact held-out metrics, evaluators' too; only the first speaks.
    assert {"knn_accuracy", "probe_accuracy"} < one[1].keys()
    for output, _ in outputs:
        found = ast.literal_eval(output.strip().splitlines()[-1])
        assert found == pytest.approx(one[1], rel=SHARDED)
    assert "step 10/10" in outputs[0][1]
    assert "step 10/10" not in outputs[1][1]
    expected = end_state(one[0])
    chex.assert_trees_all_close(end_state(tmp_path / "two"), expected, rtol=SHARDED, atol=SHARDED)
    # One process goes on where the two stood at step 8.
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "10")
    assert run_one(tmp_path / "two") == pytest.approx(one[1], rel=SHARDED)
    chex.assert_trees_all_close(end_state(tmp_path / "two"), expected, rtol=SHARDED, atol=SHARDED)


def test_a_killed_process_ends_the_others_and_two_resume_one(one, tmp_path):
    shutil.copytree(one[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    first, second = start(tmp_path / "run", seconds=30)
    # It has said that it resumes, and waits for a batch.
    for line in first.stderr:
        if "resuming at step 8" in line:
            break
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, said = first.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert first.returncode == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "process 1 gave its last sign of life 8 s ago" in line
    assert "start all of them again" in line
    second.communicate()
    # Started again they go on where one process stood.
    outputs = run_two(tmp_path / "run")
    assert "resuming at step 8" in outputs[0][1]
    chex.assert_trees_all_close(
        end_state(tmp_path / "run"), end_state(one[0]), rtol=SHARDED, atol=SHARDED
    )


def test_sigterm_while_one_waits_for_data_ends_all(one, tmp_path):
    shutil.copytree(one[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    both = start(tmp_path / "run", seconds=120)
    for line in both[0].stderr:
        if "resuming at step 8" in line:
            break
    for process in both:
        process.send_signal(signal.SIGTERM)
    lines = errors(both)
    # Whoever has waited longest says so; the other one too, or what it has heard.
    assert any("stopped by a signal, but process" in line for line in lines), lines
    assert all("from its last checkpoint" in line for line in lines)


def command(workdir, port, index, *argv):
    """Arguments of one process of a run that the command line starts."""
    return [
        "-m", "scanmax.train", f"--config={ROOT}/scanmax/configs/adding.py", f"--workdir={workdir}",
        f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={index}", *argv,
    ]  # fmt: skip


def test_processes_with_other_configs_do_not_train(tmp_path):
    port = free_port()
    own = ["--config.optim.lr=0.5", "--config.data.threads=1"]
    both = launch(command(tmp_path, port, 0), command(tmp_path, port, 1, *own))
    first, second = errors(both)
    assert "process 1 has another config than process 0 (config.optim.lr=0.5, not " in second
    assert "threads" not in second
    assert first.startswith("error: process 1 ended: process 1 has another config")
    assert not (tmp_path / "config.json").exists()


def test_a_refusal_on_process_0_ends_the_others(tmp_path):
    port = free_port()
    with (tmp_path / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = launch(command(tmp_path, port, 0), command(tmp_path, port, 1))
        first, second = errors(both)
    assert first.endswith("is in use by another run")
    assert second.startswith(f"error: process 0 ended: --workdir={tmp_path} is in use by another")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("host:abc", 2, 0), "--coordinator=host:abc: write HOST:PORT"),
        (("localhost:65536", 2, 0), "from 1 to 65535"),
        (("localhost", 2, 0), "write HOST:PORT"),
        (("::1:1234", 2, 0), "write HOST:PORT"),
        (("localhost:1234", 2, 2), "--process_id=2 must be from 0 to 1"),
        (("localhost:1234", 2, -1), "--process_id=-1 must be from 0 to 1"),
        (("localhost:1234", 0, 0), "--num_processes=0 must be at least 1"),
        (("auto", 2, 1), "--coordinator=auto asks the cluster who is who"),
        ((None, 1, 0, float("nan")), "--lost_after=nan must be between"),
        (("localhost:1234", 2, 0, -100.0), "--lost_after=-100 must be between 3"),
    ],
)
def test_what_cannot_be_joined_is_a_line(argv, message):
    with pytest.raises(UserError, match=message):
        start_processes(*argv)


def test_a_cluster_that_is_none_is_a_line(monkeypatch):
    def finds_none(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", finds_none)
    with pytest.raises(UserError, match=r"--coordinator=auto finds no cluster .*=HOST:PORT"):
        start_processes("auto", 1, 0)


def test_a_port_in_use_and_a_host_without_address_are_a_line():
    for family, place in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as other:
            # As the runtime's own do: a second one would be let in beside it.
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind((place, 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(UserError, match=f"port {port} of this machine cannot be used"):
                start_processes(f"localhost:{port}", 2, 0)
    with pytest.raises(UserError, match=r"no address of host 'nowhere\.invalid'"):
        rendezvous.resolve("nowhere.invalid", patience=0.0)


def test_processes_that_do_not_all_join_end_in_a_line(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(processes, "JOIN_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", ended.append)
    with processes.joining("2 processes"):
        time.sleep(0.5)
    assert ended == [2]
    assert "not all of 2 processes have joined within 0 s" in capsys.readouterr().err

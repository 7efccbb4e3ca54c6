"""Two processes of four devices train what one process of eight trains, to the same checkpoint."""

import ast
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

from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.loop import train
from tests.tolerances import SHARDED

HERE = pathlib.Path(__file__).parent
SCRIPT = """
import sys, time
from scanmax.train.processes import start_processes
index, port, workdir, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
start_processes("localhost:" + port, 2, index, lost_after=8.0)
import jax
assert jax.device_count() == 8 and jax.local_device_count() == 4
from toy_run import ToyData, ToyModel, toy_config
from scanmax.train.loop import train
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
config = toy_config()
config.sharding.preset = "fsdp"
print(train(config, workdir, pipeline=Half(), model=ToyModel()))
"""


def start(workdir, seconds=0.0):
    """Starts both processes; every batch takes so many seconds to read."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    flags = "--xla_force_host_platform_device_count=4"
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), port, str(workdir), str(seconds)],
            cwd=HERE,
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def run_two(workdir):
    """What both processes of a run print."""
    processes = start(workdir)
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1] + outputs[1][1]
    return outputs


def run_one(workdir):
    """The same run in this process; its held-out metrics."""
    config = toy_config()
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
    # Both know the exact held-out metrics; only the first speaks.
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

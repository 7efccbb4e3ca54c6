"""Two processes of four devices train what one process of eight trains, to the same checkpoint."""

import ast
import os
import pathlib
import socket
import subprocess
import sys

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
import sys
from scanmax.train.__main__ import start_processes
index, port, workdir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
start_processes("localhost:" + port, 2, index)
import jax
assert jax.device_count() == 8 and jax.local_device_count() == 4
from toy_run import ToyData, ToyModel, toy_config
from scanmax.train.loop import train
class Half(ToyData):
    def _mine(self, batches):
        half = self.batch_size // 2
        for batch in batches:
            yield {name: rows[index * half : (index + 1) * half] for name, rows in batch.items()}
    def train_iterator(self, start_step=0):
        return self._mine(super().train_iterator(start_step))
    def eval_batches(self):
        return self._mine(super().eval_batches())
config = toy_config()
config.sharding.preset = "fsdp"
print(train(config, workdir, pipeline=Half(), model=ToyModel()))
"""


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    flags = "--xla_force_host_platform_device_count=4"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), port, str(tmp_path / "two")],
            cwd=HERE,
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1] + outputs[1][1]

    config = toy_config()
    config.sharding.preset = "fsdp"
    held_out = train(config, tmp_path / "one", pipeline=ToyData(), model=ToyModel())
    # Both know the exact held-out metrics; only the first speaks.
    for output, _ in outputs:
        found = ast.literal_eval(output.strip().splitlines()[-1])
        assert found == pytest.approx(held_out, rel=SHARDED)
    assert "step 10/10" in outputs[0][1]
    assert "step 10/10" not in outputs[1][1]

    run = build(config, pipeline=ToyData(), model=ToyModel())
    states = []
    for name in ("one", "two"):
        with Checkpointer(tmp_path / name / "checkpoints", config.checkpoint) as checkpointer:
            states.append(jax.device_get(checkpointer.restore(run.shapes, run.shardings)[0]))
    chex.assert_trees_all_close(*states, rtol=SHARDED, atol=SHARDED)

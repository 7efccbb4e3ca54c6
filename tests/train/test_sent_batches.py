"""Batches go to the devices as bytes and draws; the step finishes them on any number of these."""

import shutil

import chex
import jax
import numpy as np
import pytest
from toy_run import ToyModel, toy_config

from scanmax.data import AugmentConfig
from scanmax.train import feed, sharding
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.loop import train
from scanmax.train.pipelines import sent_batches
from tests.tolerances import SHARDED

MODEL = ToyModel(num_classes=3)


def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (80, 4, 4), np.uint8), rng.integers(0, 3, 80)


def config_of(**fields):
    config = toy_config(eval_every="", **fields)
    config.data.augment = AugmentConfig(flip=0.5, erase=0.6, mixup=0.8, cutmix=1.0)
    return config


@pytest.fixture(scope="module")
def stepped():
    """The state and metrics after a step, by devices and whether the host finished the batch."""
    found = {}
    for devices in (1, 8):
        run = build(config_of(), data=arrays(), model=MODEL, devices=jax.devices()[:devices])
        rows = sharding.batch_sharding(run.mesh)
        for kind, batches in (
            ("sent", sent_batches(run.pipeline, 2)),
            ("finished", run.pipeline.train_iterator(2)),
        ):
            if (devices, kind) == (8, "finished"):
                continue
            batch = next(batches)
            batches.close()
            assert batch["image"].dtype == (np.uint8 if kind == "sent" else np.float32)
            with sharding.use_mesh(run.mesh, run.config.sharding):
                state, metrics = run.train_step(run.init(None), feed.to_device(batch, rows), ())
            found[devices, kind] = jax.device_get((state.params, metrics))
    return found


def test_a_step_finishes_what_the_host_would(stepped):
    chex.assert_trees_all_close(
        stepped[1, "sent"], stepped[1, "finished"], rtol=SHARDED, atol=SHARDED
    )


def test_eight_devices_finish_as_one(stepped):
    chex.assert_trees_all_close(stepped[8, "sent"], stepped[1, "sent"], rtol=SHARDED, atol=SHARDED)


def test_a_run_sends_bytes_and_goes_on_bit_for_bit(tmp_path, monkeypatch):
    seen = []
    send = feed.to_device
    monkeypatch.setattr(
        feed, "to_device", lambda batch, lies: seen.append(batch) or send(batch, lies)
    )
    config, whole = config_of(duration="4 steps"), tmp_path / "whole"
    train(config, whole, data=arrays(), model=MODEL)
    assert {batch["image"].dtype for batch in seen} == {np.dtype(np.uint8)}
    shutil.copytree(whole, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "4")
    train(config, tmp_path / "parts", data=arrays(), model=MODEL)
    run = build(config, data=arrays(), model=MODEL)
    states = []
    for name in ("whole", "parts"):
        with Checkpointer(tmp_path / name / "checkpoints", config.checkpoint) as checkpointer:
            states.append(jax.device_get(checkpointer.restore(run.shapes, run.shardings)[0]))
    assert states[0].step == 4
    chex.assert_trees_all_equal(*states)

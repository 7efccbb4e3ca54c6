"""What a step costs beside its computation: copies, compilations, the host's own work."""

import json

import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, toy_config

from scanmax.train import sharding, throughput
from scanmax.train.build import build
from scanmax.train.feed import Feed
from scanmax.train.loop import train
from scanmax.train.throughput import HostClock


@pytest.mark.parametrize("preset", ["replicated", "fsdp_tp"])
def test_every_byte_of_the_state_is_donated(preset):
    config = toy_config()
    config.sharding.preset = preset
    run = build(config, pipeline=ToyData(), model=MODEL)
    with sharding.use_mesh(run.mesh, config.sharding):
        step = run.train_step.lower(run.shapes, run.pipeline.train_spec, {}).compile()
    state = sum(
        int(np.prod(own.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, own in zip(jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings))
    )
    assert step.memory_analysis().alias_size_in_bytes == state


def test_a_run_says_what_its_steps_cost(tmp_path):
    config = toy_config(duration="60 steps", log_every="20 steps", eval_every="30 steps")
    config.checkpoint.every = "25 steps"
    train(config, tmp_path, pipeline=ToyData(), model=MODEL, profile=(5, 6))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    # Evaluations, checkpoints and the last batch have not made it compile again.
    assert [row["compiles"] for row in rows] == [1, 1, 1]
    # The host works for half a millisecond a step here; a step's own time would be ten.
    assert min(row["host_ms"] for row in rows) < 5.0
    assert all(0 <= row["data_wait"] <= 1 for row in rows)
    assert all(row["utilization"] > 0 for row in rows)
    assert all(0 < row["memory_gib"] < 0.01 for row in rows)
    flops = 6 * 16 * (16 * 16 + 16 * 64 * 2 + 16 * 3 + 16 * 4)
    for row in rows:
        assert row["gflops"] == pytest.approx(flops * row["examples_per_second"] / 16 / 1e9)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_memory_of_a_step_is_known_without_compiling_again():
    config = toy_config()
    config.sharding.preset = "fsdp_tp"
    run = build(config, pipeline=ToyData(), model=MODEL)
    batches = Feed(ToyData().train_iterator(0), sharding.batch_sharding(run.mesh), 1)
    batch, state = next(batches), run.init()
    batches.close()
    with sharding.use_mesh(run.mesh, config.sharding):
        state, _ = run.train_step(state, batch, ())
        events = []

        def note(name, *_, **__):
            events.append(name)

        jax.monitoring.register_event_duration_secs_listener(note)
        held = throughput.step_memory(run.train_step, state, batch, ())
        jax.monitoring.unregister_event_duration_listener(note)
    assert not [name for name in events if "backend_compile" in name]
    # At least what lies on a device between steps, and the batch.
    whole = jax.tree.leaves((state, batch))
    least = sum(leaf.addressable_shards[0].data.nbytes for leaf in whole)
    assert least < held * 2**30 < 10 * least


def test_peaks_go_by_the_kind_of_device():
    class Device:
        platform = "tpu"

        def __init__(self, kind):
            self.device_kind = kind

    assert throughput.peak_flops([Device("TPU v5 lite")] * 4) == 4 * 197e12
    assert throughput.peak_flops([Device("TPU v5p")]) == 459e12
    assert throughput.peak_flops([Device("NVIDIA H100 80GB HBM3")]) == 989e12
    assert throughput.peak_flops([Device("another")]) is None


def test_the_memory_is_that_of_the_fullest_device():
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    full, empty = Device({"peak_bytes_in_use": 3 * 2**29}), Device({"peak_bytes_in_use": 0})
    assert throughput.peak_memory([empty, full, Device({})]) == 1.5
    # A CPU does not say.
    assert throughput.peak_memory([Device(None)]) is None
    assert throughput.peak_memory(jax.local_devices()) is None


def test_clocks_count_work_and_waiting_apart():
    clock = HostClock()
    with clock.computing():
        sum(range(300_000))
    assert clock.seconds() < 1e-3

    def slow():
        yield {"x": np.zeros(8)}
        __import__("time").sleep(0.2)
        yield {"x": np.zeros(8)}

    mesh = sharding.make_mesh(toy_config().sharding)
    feed = Feed(slow(), sharding.batch_sharding(mesh), 2)
    next(feed)
    before = feed.waited
    next(feed)
    assert feed.waited - before > 0.1
    feed.close()

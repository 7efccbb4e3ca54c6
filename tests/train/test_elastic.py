"""A checkpoint anywhere else: other devices and presets, inference without optimizer, exports."""

import json
import os
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, toy_config

from scanmax import cli
from scanmax.data import load
from scanmax.data.config import DataConfig
from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.config import CheckpointConfig
from scanmax.train.evaluation import evaluate
from scanmax.train.export import main as export
from scanmax.train.feed import to_device
from scanmax.train.inference import from_dict, load_for_inference
from scanmax.train.loop import checkpoint_meta, train
from tests.tolerances import SHARDED

DATA = DataConfig(
    name="synthetic",
    kwargs={"examples": 64, "eval_examples": 16, "size": 4, "classes": 4, "channels": 1},
)


def plan(preset, count):
    config = toy_config(duration="20 steps")
    config.sharding.preset = preset
    data = load(DATA, seed=0, batch_size=16)
    return build(config, pipeline=data, model=MODEL, devices=jax.devices()[:count])


def steps(run, state, first, last):
    """Runs these steps: (state, losses, labels of every batch)."""
    losses, labels = [], []
    with sharding.use_mesh(run.mesh, run.config.sharding):
        batches = run.pipeline.train_iterator(first)
        for _ in range(first, last):
            batch = next(batches)
            labels.append(batch["label"].tolist())
            rows = to_device(batch, sharding.batch_sharding(run.mesh))
            state, metrics = run.train_step(state, rows, {})
            losses.append(float(metrics["loss"]))
    return state, losses, labels


def test_fsdp_tp_on_eight_continues_on_one_two_and_four_under_other_presets(tmp_path):
    run = plan("fsdp_tp", 8)
    state, _, _ = steps(run, run.init(), 0, 5)
    with Checkpointer(tmp_path, run.config.checkpoint) as checkpointer:
        checkpointer.save(state, checkpoint_meta(run, 5))
    state, losses, labels = steps(run, state, 5, 15)
    for preset, count in (("replicated", 1), ("fsdp", 2), ("fsdp_tp", 4)):
        other = plan(preset, count)
        with Checkpointer(tmp_path, other.config.checkpoint) as checkpointer:
            restored, meta = checkpointer.restore(other.shapes, other.shardings)
        assert meta["data"]["next_step"] == 5
        end, found, seen = steps(other, restored, meta["step"], 15)
        assert seen == labels
        assert found == pytest.approx(losses, rel=SHARDED)
        # Average and batch statistics have come along.
        chex.assert_trees_all_close(
            jax.device_get(end), jax.device_get(state), rtol=SHARDED, atol=SHARDED
        )


def test_what_is_kept_and_what_is_best(tmp_path):
    run = plan("replicated", 1)
    state = run.init()
    config = CheckpointConfig(keep=1, keep_best=2, metric="accuracy", mode="max")
    (tmp_path / "config.json").write_text(json.dumps(cli.to_dict(run.config)))
    accuracy = {1: 0.1, 2: 0.9, 3: 0.3, 5: 0.5, 6: 0.8, 7: 0.2}
    with Checkpointer(tmp_path / "checkpoints", config, keep_every=4) as checkpointer:
        for step in range(1, 10):
            metrics = {"accuracy": accuracy[step], "loss": step} if step in accuracy else None
            now = state.replace(step=state.step + step)
            checkpointer.save(now, checkpoint_meta(run, step), metrics)
        checkpointer.wait()
        # The newest, the two best, every fourth.
        assert checkpointer.steps() == [2, 4, 6, 8, 9]
    run.config.checkpoint = config
    (tmp_path / "config.json").write_text(json.dumps(cli.to_dict(run.config)))
    assert load_for_inference(tmp_path, "best", model=MODEL).step == 2
    assert load_for_inference(tmp_path, model=MODEL).step == 9
    with pytest.raises(UserError, match="there are 2, 4, 6, 8, 9, last and best"):
        load_for_inference(tmp_path, 3, model=MODEL)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_for_inference(tmp_path / "checkpoints")
    assert from_dict(type(run.config), cli.to_dict(run.config)) == run.config


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path):
    start = np.random.default_rng(0).normal(size=2**22).astype(np.float32)
    step = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        state = {"x": jax.device_put(start)}
        checkpointer.save(state, {"step": 1})
        # Copied, not written: what is donated to the next steps is not what goes to the disk.
        assert checkpointer._manager.is_saving_in_progress()
        for _ in range(3):
            state = step(state)
        assert float(state["x"][0]) == start[0] + 1 + 1 + 1
        checkpointer.wait()
        shapes = jax.eval_shape(lambda: state)
        lying = jax.tree.map(lambda leaf: leaf.sharding, state)
        restored, _ = checkpointer.restore(shapes, lying)
    np.testing.assert_array_equal(restored["x"], start)


def test_inference_reads_average_and_statistics_but_no_optimizer(undisturbed):
    workdir, held_out, state = undisturbed
    # The optimizer's arrays may be gone: here they are told apart by being asked for nothing.
    trained = load_for_inference(workdir, model=MODEL)
    assert (trained.step, trained.data["num_classes"]) == (10, 4)
    chex.assert_trees_all_equal(
        trained.variables,
        {
            "params": state.ema["model"],
            "batch_stats": state.carried["batch_stats"]["model"],
        },
    )
    run = build(toy_config(), pipeline=ToyData(), model=MODEL, devices=jax.devices()[:1])
    average = {"model": trained.variables["params"]}
    filled = state.replace(params=None, opt_state=None, ema=average)
    assert evaluate(run, filled) == pytest.approx(held_out, rel=SHARDED)


PLAIN = """
import json, pathlib, sys
sys.modules["scanmax"] = sys.modules["flax"] = None
import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file
folder = pathlib.Path(sys.argv[1])
model = export.deserialize((folder / "model.stablehlo").read_bytes())
weights = load_file(folder / "model.safetensors")
for count in (1, 5):
    images = np.load(folder / "images.npy")[:count]
    np.save(folder / f"logits_{count}.npy", model.call(weights, images))
print(json.loads((folder / "model.json").read_text())["class_names"])
"""


def test_exports_run_where_scanmax_is_not(tmp_path, capsys):
    config = toy_config(data=DATA, duration="2 steps")
    config.model.name = "vit_tiny_patch16_224"
    config.model.kwargs = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 2, "heads": 2}
    workdir = tmp_path / "run"
    train(config, workdir)
    assert cli.run_main(export, [str(workdir), "--step=best", f"--output={tmp_path / 'out'}"]) == 0
    assert str(tmp_path / "out" / "model.stablehlo") in capsys.readouterr().out
    trained = load_for_inference(workdir, "best")
    images = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    np.save(tmp_path / "out" / "images.npy", images)
    hidden = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "out")],
        capture_output=True, text=True, env=hidden, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "['0', '1', '2', '3']"
    expected = trained.model.apply(trained.variables, images)
    for count in (1, 5):
        logits = np.load(tmp_path / "out" / f"logits_{count}.npy")
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-5, atol=1e-6)
    # A trained folder is itself a source of weights, and so is the file.
    assert cli.run_main(export, [str(tmp_path)]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert cli.run_main(export, []) == 2

"""Runs that start from weights: which they are, where they lie, and what is told of them."""

import shutil

import chex
import jax
import numpy as np
import pytest
from toy_run import MODEL, ToyData, last_state, toy_config

import scanmax
from scanmax import cli
from scanmax.checksum import name_of
from scanmax.data import DataConfig
from scanmax.errors import UserError
from scanmax.train.__main__ import main
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, OptimConfig
from scanmax.train.inference import read_optimizer
from scanmax.train.loop import train
from scanmax.train.starting import fitting_optimizer, start_state, starting_weights

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}


def toy(weights, **model):
    config = toy_config(model=ModelConfig(name="toy", weights=str(weights), **model))
    config.sharding.preset = "fsdp"
    return config


@pytest.mark.parametrize(
    ("where", "fields", "told"),
    [
        ("", {}, "step 10 (the moving average)"),
        ("", {"weights_from": "params"}, "step 10 (the parameters)"),
        ("checkpoints/10", {"weights_from": "ema"}, "step 10 (the moving average)"),
    ],
)
def test_a_run_starts_from_another(undisturbed, where, fields, told):
    workdir, _, state = undisturbed
    run = build(toy(workdir / where, **fields), pipeline=ToyData(), model=MODEL)
    begins, lines = starting_weights(run)
    assert lines == [f"weights      {workdir}, {told}: 10 arrays"]
    started = run.init(begins)
    expected = state.params if "parameters" in told else state.ema
    chex.assert_trees_all_equal(jax.device_get(started.params), expected)
    chex.assert_trees_all_equal(jax.device_get(started.ema), expected)
    chex.assert_trees_all_equal(
        jax.device_get(started.carried["batch_stats"]), state.carried["batch_stats"]
    )
    assert int(started.step) == 0
    assert all(leaf.any() for leaf in jax.tree.leaves(begins["params"]))
    up = begins["params"]["up"]
    assert up.sharding == run.shardings.params["model"]["up"]
    assert not up.sharding.is_fully_replicated


def test_the_optimizer_comes_along_where_all_of_it_fits(undisturbed):
    workdir, _, state = undisturbed
    config = toy(workdir)
    config.optim.carry = True
    run = build(config, pipeline=ToyData(), model=MODEL)
    started, lines = start_state(run)
    assert lines[1] == f"optimizer    {workdir}: its moments; the schedule begins anew"
    theirs = {
        name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    begun = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(started.opt_state):
        if np.array_equal(leaf, theirs[name_of(path)]):
            continue
        begun.append(name_of(path))
        assert int(leaf) == 0
    assert len(begun) == 1
    assert jax.tree.map(lambda leaf: leaf.sharding, started.opt_state) == run.shardings.opt_state
    # Not of another optimizer, nor of other shapes.
    found, own = read_optimizer(workdir), run.shapes.opt_state
    mu = next(name for name in found if name.endswith("mu/model/head"))
    for odd, told in (
        ({**found, mu: found[mu][:1]}, f"{mu} is of another shape"),
        ({**found, "0/trace": found[mu]}, "another one (0/trace)"),
        ({name: leaf for name, leaf in found.items() if name != mu}, f"another one ({mu})"),
    ):
        carried, why = fitting_optimizer(run, own, odd)
        assert carried is None
        assert told in why


def test_a_resumed_run_has_its_own(undisturbed, tmp_path):
    source = shutil.copytree(undisturbed[0], tmp_path / "source")
    config = toy_config(
        model=ModelConfig(name="toy", weights=str(source)), duration="1 step", eval_every=""
    )
    config.optim.carry = True
    train(config, tmp_path / "run", pipeline=ToyData(), model=MODEL)
    first = last_state(tmp_path / "run", config)[0]
    # One step of Adam from there, not from what the seed draws.
    before = undisturbed[2].ema["model"]["stem"]
    assert 0 < np.abs(first.params["model"]["stem"] - before).max() < 0.011
    shutil.rmtree(source)
    config.duration = "2 steps"
    train(config, tmp_path / "run", pipeline=ToyData(), model=MODEL)
    assert int(last_state(tmp_path / "run", config)[0].step) == 2


@pytest.mark.parametrize(
    ("typed", "carried"), [((), True), (("--config.optim.carry=False",), False)]
)
def test_a_start_from_a_run_carries_unless_told(undisturbed, monkeypatch, tmp_path, typed, carried):
    found = []
    monkeypatch.setattr("scanmax.train.loop.train", lambda config, *_, **__: found.append(config))
    flags = ["--config=digits_vit", f"--workdir={tmp_path}", f"--from={undisturbed[0]}"]
    assert cli.run_main(main, [*flags, *typed]) == 0
    assert (found[0].model.weights, found[0].optim.carry) == (str(undisturbed[0]), carried)


def vit(weights, adapt=(), **data):
    data = DataConfig(name="synthetic", kwargs={"size": 8, "classes": 3, **data})
    model = ModelConfig(name=NAME, kwargs=SMALL, weights=str(weights), adapt=adapt)
    return build(Config(model=model, data=data, batch_size=8), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of 5 classes, colour images and four times as many positions."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    model = scanmax.create_model(NAME, num_classes=5, **{**SMALL, "img_size": 16})
    variables = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 16, 16, 3), np.float32))
    scanmax.save_weights(variables, path)
    return path


def test_what_is_adapted_and_what_starts_afresh_is_told(file):
    run = vit(file, ("head", "positions", "input_channels"), channels=1)
    begins, (line,) = starting_weights(run)
    assert line.startswith(f"weights      {file}: ")
    assert "adapted params/patch_embed/kernel, params/pos_embed" in line
    assert line.endswith("afresh params/head/bias, params/head/kernel")
    fresh = run.init()
    started = run.init(begins)
    assert started.params["model"]["patch_embed"]["kernel"].shape[2] == 1
    # The head is that of the run's seed.
    chex.assert_trees_all_close(started.params["model"]["head"], fresh.params["model"]["head"])


def test_what_does_not_fit_is_told_in_a_line(file, undisturbed, tmp_path):
    for config, told in (
        (toy_config(model=ModelConfig(adapt=("head",))), "it names nothing"),
        (toy_config(model=ModelConfig(weights_from="ema")), "it names nothing"),
        (toy_config(optim=OptimConfig(carry=True)), "it names nothing"),
        (
            toy_config(model=ModelConfig(weights="x", weights_from="average")),
            "known: auto, ema, params",
        ),
    ):
        with pytest.raises(UserError, match=told):
            build(config, pipeline=ToyData(), model=MODEL)
    with pytest.raises(UserError, match=r"(?s)config\.model\.weights: .*adapt=\['head'\] takes it"):
        starting_weights(vit(file))
    for weights, fields, told in (
        (tmp_path / "x.npz", {}, "no such file or folder"),
        (tmp_path / "x" / "checkpoints" / "3", {}, "no such file or folder"),
        (undisturbed[0] / "checkpoints" / "7", {}, "no checkpoint '7' under .*there are"),
        (file, {"weights_from": "ema"}, "is of runs"),
        (file, {"adapt": ("heads",)}, "adapt='heads' is not one of head, positions"),
    ):
        run = build(toy(weights, **fields), pipeline=ToyData(), model=MODEL)
        with pytest.raises(UserError, match=told):
            starting_weights(run)

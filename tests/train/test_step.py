"""Level 5: every preset on eight devices against one device; the variations of a step."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_run import ToyData, ToyModel, toy_config

from scanmax.train import losses, sharding
from scanmax.train.build import build
from scanmax.train.config import EmaConfig, ObjectiveConfig, OptimConfig
from scanmax.train.evaluation import evaluate
from scanmax.train.feed import to_device
from scanmax.train.objectives import Classification
from scanmax.train.state import TrainState
from scanmax.train.step import Recipe, ema_decay, train_step
from scanmax.train.teachers import Teacher
from scanmax.train.terms import TERMS
from tests.tolerances import SHARDED, SHARDED_INIT

PRESETS = {
    "replicated": {},
    "fsdp": {},
    "fsdp_tp": {},
    "fsdp_context": {"context": 2},
}


def sgd_config(preset="replicated", sizes=(), **fields):
    """With plain gradient descent at rate one, an update is the gradient."""
    optim = {"name": "sgd", "momentum": 0.0, "lr": 1.0, **fields.pop("optim", {})}
    config = toy_config(optim=OptimConfig(**optim), **{"ema": EmaConfig(), **fields})
    config.schedule.name, config.schedule.warmup = "constant", ""
    config.sharding.preset = preset
    for name, size in dict(sizes).items():
        setattr(config.sharding, name, size)
    return config


def one_step(config, model=None, devices=None, batch=None):
    """(params before, params after, metrics, held-out metrics) of one step, as numpy."""
    model = ToyModel() if model is None else model
    data = ToyData(config.batch_size)
    run = build(config, pipeline=data, model=model, devices=devices)
    batch = next(data.train_iterator(3)) if batch is None else batch
    state = run.init()
    before = jax.device_get(state.params)
    with sharding.use_mesh(run.mesh, config.sharding):
        rows = to_device(batch, sharding.batch_sharding(run.mesh))
        state, metrics = run.train_step(state, rows, {})
        held_out = evaluate(run, state)
    return before, jax.device_get(state), jax.device_get(metrics), held_out


@functools.cache
def reference():
    return one_step(sgd_config(), devices=jax.devices()[:1])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_equal_one_device(preset):
    before, state, metrics, held_out = one_step(sgd_config(preset, PRESETS[preset]))
    before_1, state_1, metrics_1, held_out_1 = reference()
    chex.assert_trees_all_close(before, before_1, rtol=0, atol=SHARDED_INIT)
    chex.assert_trees_all_close(state.params, state_1.params, rtol=SHARDED, atol=SHARDED)
    chex.assert_trees_all_close(metrics, metrics_1, rtol=SHARDED, atol=SHARDED)
    chex.assert_trees_all_close(held_out, held_out_1, rtol=SHARDED, atol=SHARDED)
    # The comparison must be able to fail: the step did move the parameters.
    assert metrics["grad_norm"] > 0.1


def test_accumulation_equals_one_big_batch():
    batch = next(ToyData().train_iterator(3))
    batch["mask"][[2, 7, 8]] = False
    batch["image"][~batch["mask"]] = 1e3
    devices = jax.devices()[:2]
    whole = one_step(sgd_config(), devices=devices, batch=batch)
    parts = one_step(sgd_config(optim={"accumulate": 4}), devices=devices, batch=batch)
    chex.assert_trees_all_close(parts[1].params, whole[1].params, rtol=SHARDED, atol=SHARDED)
    chex.assert_trees_all_close(parts[2], whole[2], rtol=SHARDED, atol=SHARDED)
    # What the mask leaves out has no influence at all.
    batch["image"][~batch["mask"]] = 0.0
    masked = one_step(sgd_config(), devices=devices, batch=batch)
    chex.assert_trees_all_equal(masked[1].params, whole[1].params)


def test_clipping_and_rematerialisation_and_bfloat16():
    before, state, metrics, _ = reference()
    gradient = jax.tree.map(np.subtract, before, state.params)
    one = jax.devices()[:1]

    clipped = one_step(sgd_config(optim={"clip_norm": 0.5}), devices=one)
    scale = 0.5 / metrics["grad_norm"]
    chex.assert_trees_all_close(
        jax.tree.map(np.subtract, before, clipped[1].params),
        jax.tree.map(lambda g: g * scale, gradient),
        rtol=1e-4,
        atol=1e-6,
    )
    remat = one_step(sgd_config(), ToyModel(remat=True), devices=one)
    chex.assert_trees_all_close(remat[1].params, state.params, rtol=1e-6, atol=1e-6)

    bf16 = one_step(sgd_config(), ToyModel(dtype=jnp.bfloat16), devices=one)
    assert {leaf.dtype for leaf in jax.tree.leaves(bf16[1].params)} == {np.dtype("float32")}
    assert bf16[2]["loss"] == pytest.approx(metrics["loss"], rel=2e-2)
    error = optax_norm(jax.tree.map(np.subtract, bf16[1].params, state.params))
    assert 0 < error < 0.05 * metrics["grad_norm"]


def optax_norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def test_ema_batch_statistics_and_two_heads():
    config = sgd_config(ema=EmaConfig(decay=0.75), objective=ObjectiveConfig())
    model = ToyModel(batch_norm=True, distilled=True)
    before, state, _, _ = one_step(config, model, devices=jax.devices()[:1])
    chex.assert_trees_all_close(
        state.ema,
        jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, state.params),
        rtol=1e-6,
        atol=1e-7,
    )
    mean = jax.tree.leaves(state.carried)[0]
    assert np.any(mean != 0)
    warm = [float(ema_decay(0.999, True, jnp.asarray(step))) for step in (0, 10, 10**6)]
    assert warm == pytest.approx([0.1, 11 / 20, 0.999])


@pytest.mark.parametrize("kind", ["hard", "kd"])
def test_distillation_mixes_the_label_with_the_teacher(kind):
    config = sgd_config(objective=ObjectiveConfig(weight=0.75))
    model, teacher = ToyModel(distilled=True), ToyModel(width=8)
    data = ToyData()
    run = build(config, pipeline=data, model=model, devices=jax.devices()[:1])
    batch = jax.tree.map(jnp.asarray, next(data.train_iterator()))
    state = run.init()
    teacher_variables = nn.meta.unbox(teacher.init(jax.random.key(1), batch["image"]))
    options = {"weight": 0.25} | ({"temperature": 2.0} if kind == "kd" else {})
    objective = Classification(
        model=model,
        config=config.objective,
        terms=(TERMS[kind](**options, name=kind),),
        teachers=(Teacher("toy", teacher),),
    )
    state = state.replace(opt_state=optax.sgd(1.0).init(state.params))
    _, metrics = train_step(
        state,
        batch,
        (teacher_variables,),
        recipe=Recipe(objective),
        optimizer=optax.sgd(1.0),
        schedule=lambda step: 1.0,
        config=config,
    )
    outputs = model.apply({"params": state.params["model"]}, batch["image"], train=True)
    target = teacher.apply(teacher_variables, batch["image"])
    extra = (
        losses.hard_distillation(outputs[1], target)
        if kind == "hard"
        else losses.soft_distillation(outputs[1], target, temperature=2.0)
    )
    plain = losses.softmax_cross_entropy(outputs[0], batch["label"])
    expected = jnp.mean(0.75 * plain + 0.25 * extra)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_dropout_is_a_function_of_seed_and_step():
    config = sgd_config()
    model = ToyModel(dropout_rate=0.5)
    losses = [one_step(config, model)[2]["loss"] for _ in range(2)]
    other = sgd_config()
    other.seed = 1
    assert losses[0] == losses[1] != one_step(other, model)[2]["loss"]


def test_the_state_is_donated_and_the_step_compiles_once():
    config, data = sgd_config("fsdp"), ToyData()
    run = build(config, pipeline=data, model=ToyModel())
    state = run.init()
    batches = data.train_iterator()
    with sharding.use_mesh(run.mesh, config.sharding):
        rows = sharding.batch_sharding(run.mesh)
        compiled = run.train_step.lower(state, to_device(next(batches), rows), {}).compile()
        # Every array of the state is written where it was read.
        assert compiled.memory_analysis().alias_size_in_bytes > 0
        old = state
        # Nothing crosses from host to device but the batch, and that is asked for.
        with jax.transfer_guard("disallow"):
            for _ in range(3):
                state, _ = run.train_step(state, to_device(next(batches), rows), {})
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
        assert run.train_step._cache_size() == 1


def test_what_a_model_sows_as_a_loss_is_added():
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            logits = nn.Dense(10)(images.reshape(images.shape[0], -1))
            if train and not self.is_initializing():
                self.sow("losses", "size", jnp.mean(jnp.square(logits)))
                self.sow("metrics", "kept", jnp.mean(logits))
                self.sow("metrics", "kept", 3 * jnp.mean(logits))
            return logits

    def run(model, accumulate=1):
        config = toy_config(ema=EmaConfig())
        config.optim.accumulate = accumulate
        batch = {"image": np.ones((8, 2, 2, 1), np.float32), "label": np.arange(8) % 10}
        params = {"model": model.init(jax.random.key(0), batch["image"])["params"]}
        optimizer = optax.sgd(1.0)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            carried={},
            opt_state=optimizer.init(params),
            ema={},
            rng=jax.random.key_data(jax.random.key(1)),
        )
        return train_step(
            state,
            batch,
            (),
            optimizer=optimizer,
            schedule=lambda step: 1.0,
            recipe=Recipe(Classification(model=model, config=ObjectiveConfig())),
            config=config,
        )

    class Silent(Sowing):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(10)(images.reshape(images.shape[0], -1))

    (_, plain), (after, sown), (parts, split) = run(Silent()), run(Sowing()), run(Sowing(), 2)
    logits = Silent().apply(
        Silent().init(jax.random.key(0), jnp.ones((8, 2, 2, 1))), jnp.ones((8, 2, 2, 1))
    )
    np.testing.assert_allclose(sown["loss"] - plain["loss"], jnp.mean(logits**2), rtol=1e-4)
    # By its own name too, beside the mean of what is only to be logged.
    np.testing.assert_allclose(sown["size"], jnp.mean(logits**2), rtol=1e-5)
    np.testing.assert_allclose(sown["kept"], 2 * jnp.mean(logits), rtol=1e-5)
    chex.assert_trees_all_close(split, sown, rtol=1e-5)
    chex.assert_trees_all_close(parts.params, after.params, rtol=1e-4, atol=1e-6)

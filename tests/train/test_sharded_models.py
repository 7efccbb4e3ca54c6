"""Level 5 on real models: their own constraints and axes, heads or tokens split, against one."""

import functools

import chex
import jax
import numpy as np
import pytest
from toy_run import ToyData, toy_config

from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.config import EmaConfig, ModelConfig, ObjectiveConfig, OptimConfig
from scanmax.train.feed import to_device
from scanmax.train.hlo import collectives
from tests.tolerances import SHARDED, SHARDED_INIT


class ToyTokens(ToyData):
    kind = "tokens"
    num_classes = 32

    def __init__(self):
        super().__init__()
        self.train_spec = self.eval_spec = {
            "tokens": jax.ShapeDtypeStruct((16, 17), np.int32),
            "mask": jax.ShapeDtypeStruct((16,), np.bool_),
        }

    def make(self, seed, count):
        tokens = np.random.default_rng(seed).integers(0, 32, (count, 17)).astype(np.int32)
        return {"tokens": tokens, "mask": np.ones(count, bool)}

    def train_iterator(self, start_step=0):
        yield self.make(start_step, self.batch_size)


VIT = {"img_size": 4, "patch_size": 2, "dim": 16, "depth": 2, "heads": 2, "scan_layers": True}
MAMBA2 = {"dim": 16, "depth": 1, "heads": 2, "state_size": 8}
SCANS = {"dim": 16, "depth": 2, "heads": 2, "mixer": ("mamba", "gla")}
EXPERTS = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "scan_layers": True,
    "moe": {"num_experts": 8, "capacity_factor": 1.0},
}
# Experts over devices that attention uses for batch and heads.
FOLDED = (("expert", "fsdp+tensor"),)
MODELS = {
    "vit": ("vit_tiny_patch16_224", "classification", ToyData, VIT),
    "experts": ("lm_tiny", "language_model", ToyTokens, EXPERTS),
    "mamba2": ("mamba2_130m", "language_model", ToyTokens, MAMBA2),
    "scans": ("lm_tiny", "language_model", ToyTokens, SCANS),
}


@functools.cache
def one_step(case, preset, devices, rules=()):
    """The run, whether keys or states travel, (params before, params after, metrics) of a step."""
    name, task, data, kwargs = MODELS[case]
    config = toy_config(
        model=ModelConfig(name=name, kwargs=kwargs),
        objective=ObjectiveConfig(name=task),
        optim=OptimConfig(name="sgd", momentum=0.0, lr=1.0),
        ema=EmaConfig(),
    )
    config.schedule.name, config.schedule.warmup = "constant", ""
    config.sharding.preset, config.sharding.rules = preset, rules
    run = build(config, pipeline=data(), devices=jax.devices()[:devices])
    state = run.init()
    before = jax.device_get(state.params)
    with sharding.use_mesh(run.mesh, config.sharding):
        batch = next(run.pipeline.train_iterator(3))
        rows = to_device(batch, sharding.batch_sharding(run.mesh))
        travels = "shard_map" in str(run.train_step.trace(state, rows, {}).jaxpr)
        state, metrics = run.train_step(state, rows, {})
    return run, travels, (before, jax.device_get(state.params), jax.device_get(metrics))


@pytest.mark.parametrize(
    ("case", "preset", "rules", "expected_axes"),
    [
        ("vit", "fsdp_tp", (), {"fsdp", "tensor"}),
        # its five tokens on two devices
        ("vit", "fsdp_context", (), {"fsdp"}),
        ("mamba2", "fsdp_tp", (), {"fsdp", "tensor"}),
        ("mamba2", "fsdp_context", (), {"fsdp"}),
        ("scans", "fsdp_context", (), {"fsdp"}),
        ("experts", "fsdp_expert", (), {"fsdp", "expert"}),
        ("experts", "fsdp_tp", FOLDED, {"fsdp", "tensor", ("fsdp", "tensor")}),
    ],
)
def test_sharded_models_equal_one_device(case, preset, rules, expected_axes):
    one = one_step(case, "replicated", 1)[-1]
    run, travels, many = one_step(case, preset, 8, rules)
    chex.assert_trees_all_close(many[0], one[0], rtol=0, atol=SHARDED_INIT)
    chex.assert_trees_all_close(many[1:], one[1:], rtol=SHARDED, atol=SHARDED)
    # The mesh did split over its axes, no mixer gathered its tokens, and the step did move.
    axes = {axis for leaf in jax.tree.leaves(run.shardings.params) for axis in leaf.spec if axis}
    assert axes == expected_axes
    assert travels == (run.mesh.shape["context"] > 1)
    assert one[2]["grad_norm"] > 0.1
    if case == "experts":
        assert one[2]["dropped"] > 0.02
        assert one[2]["load_balance"] >= 0.02 * 0.9
        check_experts_travel(run)


def check_experts_travel(run):
    """Tokens go to the experts, not experts' weights or all tokens to everybody."""
    with sharding.use_mesh(run.mesh, run.config.sharding):
        batch = sharding.batch_shapes(run.pipeline.train_spec, run.mesh)
        found = collectives(run.train_step.lower(run.shapes, batch, {}).compile().as_text())
    sent = [entry for entry in found if entry.kind == "all-to-all"]
    # There and back, forward and backward, and again in two layers.
    assert sum(entry.times for entry in sent) >= 8
    gathered = [entry.bytes for entry in found if entry.kind == "all-gather"]
    dim, experts, capacity = 16, 8, 4
    weights = 4 * experts * dim * 4 * dim
    tokens = 4 * 16 * experts * capacity * dim
    assert max(gathered, default=0) < min(weights, tokens)

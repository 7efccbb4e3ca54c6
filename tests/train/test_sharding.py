"""Specs of parameters, meshes, and what is refused before anything is computed."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from toy_run import ToyData, ToyModel, toy_config

from scanmax.errors import UserError
from scanmax.train import sharding
from scanmax.train.build import build
from scanmax.train.config import ShardingConfig


def spec(shape, names, preset="fsdp", **fields):
    config = ShardingConfig(preset=preset, min_size=16, **fields)
    return sharding.parameter_spec(shape, names, sharding.make_mesh(config), config)


def test_meshes_fill_the_devices():
    def shape(**fields):
        return tuple(sharding.make_mesh(ShardingConfig(**fields)).shape.values())

    assert shape() == (8, 1, 1, 1, 1)
    assert shape(preset="fsdp") == (1, 8, 1, 1, 1)
    assert shape(preset="fsdp", data=2) == (2, 4, 1, 1, 1)
    assert shape(preset="fsdp_tp") == (1, 4, 1, 2, 1)
    assert shape(preset="fsdp_tp", tensor=4) == (1, 2, 1, 4, 1)
    assert shape(preset="fsdp", data=-1, fsdp=2) == (4, 2, 1, 1, 1)
    assert shape(preset="fsdp_context") == (1, 4, 1, 1, 2)
    assert shape(preset="fsdp_expert") == (1, 4, 2, 1, 1)
    for fields, message in (
        ({"data": 3}, "mesh data=3, fsdp=1, expert=1, tensor=1, context=1 does not fill 8 devices"),
        ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
        ({"tensor": -2}, "tensor=-2 must be"),
        ({"preset": "fdsp"}, "did you mean 'fsdp'"),
        ({"rules": (("embd", "fsdp"),)}, "did you mean 'embed'"),
        ({"rules": (("embed", "fdsp"),)}, "did you mean 'fsdp'"),
        ({"rules": (("expert", "fsdp+tenser"),)}, "did you mean 'tensor'"),
    ):
        with pytest.raises(UserError, match=message):
            sharding.make_mesh(ShardingConfig(**fields))


def test_rules_are_tried_in_order_and_only_where_they_divide():
    P = PartitionSpec
    assert spec((16, 64), ("embed", "mlp")) == P("fsdp")
    assert spec((15, 64), ("embed", "mlp")) == P(None, "fsdp")
    assert spec((16, 64), ("embed", "mlp"), "fsdp_tp") == P("fsdp", "tensor")
    assert spec((64, 16), ("mlp", "embed"), "fsdp_tp") == P("tensor", "fsdp")
    assert spec((16, 4, 8), ("embed", "heads", "kv"), "fsdp_tp") == P("fsdp", "tensor")
    assert spec((64, 8), None) == P("fsdp")
    assert spec((3, 64), (None, None)) == P(None, "fsdp")
    assert spec((8, 5, 3), ("layers", "embed", "mlp")) == P()
    assert spec((8,), ("embed",)) == P()
    assert spec((16, 64), ("embed", "mlp"), "replicated") == P()
    assert spec((16, 64), ("embed", "mlp"), rules=(("embed", ""),)) == P(None, "fsdp")
    experts = ((8, 16, 64), ("expert", "embed", "mlp"))
    assert spec(*experts, "fsdp") == P(None, "fsdp")
    assert spec(*experts, "fsdp_expert") == P("expert", "fsdp")
    assert spec((7, 16, 64), experts[1], "fsdp_expert") == P(None, "fsdp")
    folded = {"preset": "fsdp_tp", "rules": (("expert", "fsdp+tensor"),)}
    assert spec(*experts, **folded) == P(("fsdp", "tensor"))
    assert spec((4, 16, 64), experts[1], **folded) == P(None, "fsdp", "tensor")


def test_experts_take_their_devices_from_the_batch():
    def batch(**fields):
        found = sharding.get_preset(ShardingConfig(**fields)).activations
        return found["expert"], found["routed_batch"], found["expert_batch"]

    rows = ("data", "fsdp", "expert", "context")
    assert batch(preset="fsdp") == ((), rows, rows)
    assert batch(preset="fsdp_expert") == (("expert",), rows, ("data", "fsdp", "context"))
    # Attention has its heads over tensor; there each device takes other tokens to the experts.
    assert batch(preset="fsdp_tp", rules=(("expert", "fsdp+tensor"),)) == (
        ("fsdp", "tensor"),
        (*rows, "tensor"),
        ("data", "expert", "context"),
    )


def test_moments_lie_like_their_parameters():
    config = toy_config()
    config.sharding.preset = "fsdp"
    run = build(config, pipeline=ToyData(), model=ToyModel())
    found = {
        jax.tree_util.keystr(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(run.shardings.opt_state)
    }
    moments = [spec for path, spec in found.items() if "['up']" in path]
    assert moments == [PartitionSpec("fsdp")] * 2
    assert run.shardings.ema["model"]["up"].spec == PartitionSpec("fsdp")
    text = sharding.describe(run.shapes.params, run.shardings.params, run.mesh)
    assert "mesh: fsdp 8" in text
    assert "(fsdp)" in text


def test_parameters_left_replicated_are_refused():
    config = toy_config()
    config.sharding.preset = "fsdp"
    with pytest.raises(UserError, match="leaves 89% of the parameters on every device"):
        build(config, pipeline=ToyData(), model=ToyModel(width=15))


def test_batch_sizes_name_what_would_fit():
    for fields, message in (
        ({"batch_size": 12}, r"batch_size=12 is not divisible .* take 8 or 16"),
        ({"eval_batch_size": 9}, r"eval_batch_size=9 is not divisible"),
    ):
        with pytest.raises(UserError, match=message):
            build(toy_config(**fields), pipeline=ToyData(), model=ToyModel())


def test_parts_of_a_batch_keep_every_row_once():
    from scanmax.train.gradients.base import split_batch

    parts = np.asarray(split_batch({"x": np.arange(8)}, 2)["x"])
    assert parts.shape == (2, 4)
    assert sorted(parts.ravel()) == list(range(8))

"""What optimizers ask of a parameter: is it a weight, is it a matrix, is it one of many layers."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.models.blocks import stack_blocks
from scanmax.models.mixers import MIXERS
from scanmax.train import sharding
from scanmax.train.config import OptimConfig, ShardingConfig
from scanmax.train.optim import decay_mask, make_optimizer, muon_dimensions, param_path
from scanmax.train.state import abstract_params
from tests.tolerances import EQUIVALENCE_F64, SHARDED

# The last part of a parameter's path, digits cut off, says what it is.
WEIGHTS = """
    kernel embedding conv_kernel small_conv_kernel kernel_out wave weights squeeze excite decay_down
    decay_up mix_down mix_up learnable_tokens query_vector value_vector fc1_kernel fc2_kernel
    gate_kernel square_kernel row_kernel column_kernel taps filter core_kernel input_kernel
    output_kernel rotation coefficients key_up value_up
"""
REST = """
    bias scale norm_scale norm_bias conv_bias small_conv_bias bias_out fc1_bias fc2_bias gate_bias
    squeeze_bias excite_bias A_log D dt_bias decay bonus alpha beta gate strength skip slot_scale
    temperature frequency phase gamma centre length sigma mean radius positions mix_all mix_decay
    mix_gate mix_key mix_receptance mix_value prefix weights_ cls_token dist_token pos_embed slots
    pos_embed_rows pos_embed_columns
    position query_embedding table relative_bias relative_rows relative_columns local_bias
    learnable_bias square_bias row_bias column_bias position_bias cls_token_ pos_embed_
    segments response_scale response_bias numerator denominator input_bias output_bias weight
    level_embed instance_scale instance_bias
"""
VIT = {"img_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2, "num_classes": 8}
LM = {"vocab_size": 64, "dim": 32, "depth": 2, "heads": 2}
EXPERTS = {**LM, "use_bias": True, "scan_layers": True, "moe": {"num_experts": 8}}
IMAGE = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 8), jnp.int32)


def vit(**fields):
    return scanmax.create_model("deit_tiny_patch16_224", **{**VIT, **fields}), IMAGE


def lm(**fields):
    return scanmax.create_model("lm_tiny", **{**LM, **fields}), TOKENS


def named(model, example):
    """(path, shape, logical axes) of every parameter, and the trees."""
    params, axes, _ = abstract_params(model, 0, example)
    entries = jax.tree_util.tree_map_with_path(
        lambda path, leaf, names: (param_path(path), leaf.shape, names), params, axes
    )
    is_entry = lambda entry: isinstance(entry, tuple)  # noqa: E731
    return jax.tree.leaves(entries, is_leaf=is_entry), params, axes


def hosted(mixer):
    """A host that takes the mixer, in any of the two ways."""
    for host in (vit, lm):
        try:
            model, example = host(mixer=mixer, depth=1, mixer_options=None)
            jax.eval_shape(model.init, jax.random.key(0), example)
        except (ValueError, NotImplementedError):
            continue
        return model, example
    raise AssertionError(f"no host takes {mixer}")


def models():
    """One model of every family, and every mixer in a host."""
    found = []
    for family in sorted({scanmax.model_info(name).family for name in scanmax.list_models()}):
        names = scanmax.list_models(family=family)
        name = min(names, key=lambda name: scanmax.model_info(name).params)
        make = lambda name=name: (scanmax.create_model(name), scanmax.model_info(name).example())  # noqa: E731
        found.append(pytest.param(make, id=name))
    for mixer in sorted(MIXERS):
        found.append(pytest.param(lambda mixer=mixer: hosted(mixer), id=mixer))
    options = {"slots": {"slot_init": "param"}}
    found.append(
        pytest.param(lambda: vit(mixer="slots", mixer_options=options), id="learned_slots")
    )
    for gate in ("se", "eca", "cbam"):
        found.append(pytest.param(lambda gate=gate: vit(channel_attention=gate), id=gate))
    return [*found, pytest.param(lambda: lm(**EXPERTS), id="experts")]


@pytest.mark.parametrize("make", models())
def test_weight_decay_reaches_weights_and_nothing_else(make):
    entries, params, axes = named(*make())
    mask = jax.tree.leaves(decay_mask((), params, axes))
    weights, rest = WEIGHTS.split(), REST.split()
    for (path, _, _), decays in zip(entries, mask, strict=True):
        last = path.split("/")[-1].rstrip("0123456789")
        assert decays == (last in weights), path
        assert (last in weights) != (last in rest), path


def test_parameters_of_other_modules_decay_by_their_rank():
    params = {
        "a": jnp.ones((2, 3)),
        "b": jnp.ones(3),
        "c": jnp.ones((4, 3)),
        "pos": jnp.ones((2, 3)),
    }
    axes = {"a": None, "b": None, "c": ("layers", "mlp"), "pos": (None, "embed")}
    expected = {"a": True, "b": False, "c": False, "pos": False}
    assert decay_mask(("pos",), params, axes) == expected


def test_muon_takes_the_matrices_of_hidden_layers():
    def dimensions(model, example):
        found = {
            path: muon_dimensions(names, shape) for path, shape, names in named(model, example)[0]
        }
        return {path: tuple(entry) for path, entry in found.items() if entry is not None}

    block = {
        "mixer/qkv/kernel": ((-4,), (-2, -1)),
        "mixer/out/kernel": ((-3, -2), (-1,)),
        "mlp/fc1/kernel": ((-2,), (-1,)),
        "mlp/fc2/kernel": ((-2,), (-1,)),
    }
    assert dimensions(*vit(depth=1)) == {f"block_00/{name}": d for name, d in block.items()}
    assert dimensions(*vit(scan_layers=True)) == {f"blocks/{name}": d for name, d in block.items()}
    experts = {name.replace("/kernel", "_kernel"): d for name, d in block.items() if "mlp" in name}
    experts |= {name: d for name, d in block.items() if "mixer" in name}
    experts["mlp/router/kernel"] = ((-2,), (-1,))
    assert dimensions(*lm(**EXPERTS)) == {f"blocks/{name}": d for name, d in experts.items()}
    # A scan per direction has maps per direction; taps of depthwise filters are no matrices.
    four = dimensions(*vit(mixer="mamba_four_way", depth=1))
    assert four["block_00/mixer/ssm/dt_proj/kernel"] == ((-2,), (-1,))
    assert not any("conv" in path for path in four)


def only(pattern, *trees):
    """The parameters whose paths match, in a flat dict by path, of each tree."""
    is_leaf = lambda leaf: leaf is None or isinstance(leaf, tuple)  # noqa: E731
    flat = [
        {
            param_path(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)
        }
        for tree in trees
    ]
    return tuple(
        {path: leaf for path, leaf in tree.items() if re.search(pattern, path)} for tree in flat
    )


def drawn(params, seed=0):
    rng = np.random.default_rng(seed)
    dtype = jnp.zeros(()).dtype
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), params)


def stepped(optimizer, trees):
    """The parameters, the first tree, after a step with each of the other trees as gradients."""

    @jax.jit
    def steps(values, *gradients):
        state = optimizer.init(values)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, values)
            values = optax.apply_updates(values, updates)
        return values

    return steps(*trees)


def muon_case():
    """A matrix of each kind, a bias and the head: (parameters, axes, values and gradients)."""
    _, params, axes = named(*vit(depth=1))
    params, axes = only("qkv/|out/kernel|fc2/kernel|^head/kernel", params, axes)
    return params, axes, [drawn(params, seed) for seed in range(3)]


def test_muon_is_that_of_optax_with_these_dimensions():
    params, axes, trees = muon_case()
    numbers = {path: muon_dimensions(axes[path], leaf.shape) for path, leaf in params.items()}
    theirs = optax.contrib.muon(
        0.5,
        ns_steps=5,
        weight_decay=0.1,
        adam_b2=0.99,
        nesterov=False,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda _: numbers,
    )
    kwargs = {"ns_steps": 5, "nesterov": False}
    config = OptimConfig(name="muon", b2=0.99, weight_decay=0.1, no_decay=("head",), kwargs=kwargs)
    ours = make_optimizer(config, lambda step: 0.5, params, axes)
    moved = stepped(ours, trees)
    chex.assert_trees_all_close(moved, stepped(theirs, trees), rtol=1e-4, atol=1e-4)
    # Query, key and value are orthogonal by themselves: all directions move about as far.
    moved, first = stepped(ours, trees[:2]), trees[0]
    name = "block_00/mixer/qkv/kernel"
    for part in range(3):
        change = np.asarray(moved[name] - 0.95 * first[name])[:, part].reshape(32, 32)
        lengths = np.linalg.svd(change, compute_uv=False) / (0.5 * 0.2 * 32**0.5)
        assert lengths[28] > 0.5
        assert lengths[0] < 1.5


def test_muon_takes_arguments_of_optax():
    params, axes, trees = muon_case()
    params, axes, *trees = only("fc2", params, axes, *trees)
    trees[0] = jax.tree.map(jnp.zeros_like, trees[0])

    def moved(**kwargs):
        config = OptimConfig(name="muon", kwargs={"ns_steps": 2, **kwargs})
        optimizer = make_optimizer(config, lambda step: 1.0, params, axes)
        return stepped(optimizer, trees)["block_00/mlp/fc2/kernel"]

    # 128 inputs, 32 outputs: by the shape Muon does not scale.
    plain = moved()
    chex.assert_trees_all_close(moved(consistent_rms=None) * 0.2 * 128**0.5, plain, rtol=1e-4)
    assert float(jnp.abs(moved(beta=0.5) - plain).max()) > 1e-3


def test_muon_needs_matrices_and_knows_its_arguments():
    params = {"kernel": jnp.ones((3, 4))}
    with pytest.raises(UserError, match="no parameter says that it is the matrix"):
        make_optimizer(OptimConfig(name="muon"), lambda step: 1.0, params, {"kernel": None})
    params, axes, _ = muon_case()
    with pytest.raises(UserError, match=r"config\.optim\.kwargs=.*of muon: .*'bata'"):
        make_optimizer(OptimConfig(name="muon", kwargs={"bata": 1}), lambda step: 1.0, params, axes)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "lamb", "weight_decay": 0.1},
        {"name": "adafactor", "kwargs": {"min_dim_size_to_factor": 8}},
        {"name": "muon", "weight_decay": 0.1, "freeze": ("head",)},
        {"name": "adamw", "weight_decay": 0.1, "perp_grad": True, "clip_norm": 1.0},
    ],
    ids=lambda fields: fields["name"],
)
def test_scanned_layers_are_updated_as_looped_ones(fields):
    with jax.enable_x64(True):
        looped, stacked = (named(*vit(scan_layers=scan))[1:] for scan in (False, True))
        # Layers whose norms differ, so that a ratio over all of them would be another.
        trees = [drawn(looped[0], seed) for seed in range(3)]
        for tree in trees:
            tree["block_01"] = jax.tree.map(lambda leaf: 7 * leaf**3, tree["block_01"])

        def moved(layout, trees):
            optimizer = make_optimizer(OptimConfig(**fields), lambda step: 0.1, *layout)
            return stepped(optimizer, trees)

        expected = stack_blocks(moved(looped, trees))
        actual = moved(stacked, [stack_blocks(tree) for tree in trees])
        chex.assert_trees_all_close(actual, expected, rtol=EQUIVALENCE_F64, atol=EQUIVALENCE_F64)


@pytest.mark.parametrize(
    ("name", "preset"),
    [("adafactor", "fsdp_expert"), *(("muon", preset) for preset in sorted(sharding.PRESETS))],
)
def test_sharded_updates_equal_one_device(name, preset):
    """Two steps of the rules that look at a whole matrix, over experts stacked by layers."""
    _, params, axes = named(*lm(**EXPERTS))
    params, axes = only("qkv/|fc1_|embedding", params, axes)
    kwargs = {"min_dim_size_to_factor": 8} if name == "adafactor" else {"ns_steps": 2}
    config = OptimConfig(name=name, weight_decay=0.1, kwargs=kwargs)
    optimizer = make_optimizer(config, lambda step: 0.1, params, axes)
    values, *gradients = (drawn(params, seed) for seed in range(3))

    def steps(values):
        state = optimizer.init(values)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, values)
            values = optax.apply_updates(values, updates)
        return values, state

    config = ShardingConfig(preset=preset, min_size=16)
    mesh = sharding.make_mesh(config)
    lying = sharding.parameter_shardings(params, axes, mesh, config)
    states = sharding.like_parameters(jax.eval_shape(steps, values)[1], params, lying, mesh)
    values_there = jax.device_put(values, lying)
    expected, _ = jax.jit(steps)(values)
    actual, state = jax.jit(steps, out_shardings=(lying, states))(values_there)
    chex.assert_trees_all_close(actual, expected, rtol=SHARDED, atol=SHARDED)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 2]
    assert preset == "replicated" or any(not m.sharding.is_fully_replicated for m in moments)

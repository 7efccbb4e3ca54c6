"""Branches side by side, stems that keep patches apart, attention trained alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.models.blocks import Block
from scanmax.models.layers import LayerNorm, Mlp, axes_of
from scanmax.models.mixers import create_mixer
from scanmax.models.multiply_adds import MULTIPLY_ADDS
from scanmax.models.parts.stems import DualPatchNorm, HmlpStem
from scanmax.testing import compare
from scanmax.testing.model_suite import COMPILER_OPTIONS
from scanmax.train.config import OptimConfig
from scanmax.train.optim import make_optimizer, param_path

TINY = {"dim": 8, "heads": 2, "img_size": 16, "patch_size": 8, "num_classes": 3}


def drawn(module, images):
    """Parameters off their initial values; nothing is compiled."""
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), images))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)


def applied(module, params, *arguments):
    run = jax.jit(module.apply, compiler_options=COMPILER_OPTIONS)
    return [run({"params": params}, images) for images in arguments]


def test_side_by_side_costs_what_in_turn_does():
    names = [f"vit_small_patch16_{shape}_224" for shape in ("36x1", "18x2", "12x3")]
    assert len({model_info(name).params for name in names}) == 1
    assert len({MULTIPLY_ADDS[name] for name in names}) == 1


def test_side_by_side_is_in_turn_but_for_what_branches_see_of_each_other():
    """Moving a block into its neighbour changes terms of second order in the scales alone."""
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    fields = {**TINY, "num_classes": 0}
    turn = create_model("vit_small_patch16_36x1_224", depth=2, **fields)
    side = create_model("vit_small_patch16_18x2_224", depth=1, **fields)
    params = drawn(turn, images)

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def gap(scale):
        blocks = [
            {
                name: {"scale": jnp.full(TINY["dim"], scale)} if "scale" in name else part
                for name, part in params[block].items()
            }
            for block in ("block_00", "block_01")
        ]
        merged = {f"{name}_{i}": part for i in (0, 1) for name, part in blocks[i].items()}
        rest = {name: part for name, part in params.items() if not name.startswith("block_")}
        in_turn = {**rest, "block_00": blocks[0], "block_01": blocks[1]}
        expected = turn.apply({"params": in_turn}, images)
        actual = side.apply({"params": {**rest, "block_00": merged}}, images)
        return jnp.abs(actual - expected).max()

    wide, narrow = float(gap(0.1)), float(gap(0.05))
    assert wide > 1e-4
    assert 3 < wide / narrow < 5


def test_a_patch_of_the_stem_is_its_own():
    stem = HmlpStem(12, norm="layer_norm")
    images = jax.random.normal(jax.random.key(0), (1, 32, 48, 3))
    others = images.at[:, 16:].set(0.0).at[:, :, :32].set(0.0)
    whole, masked = applied(stem, drawn(stem, images), images, others)
    assert whole.shape == (1, 2, 3, 12)
    compare.assert_relative(masked[0, 0, 2], whole[0, 0, 2], 1e-6)
    assert jnp.abs(masked - whole)[0, 1].max() > 0.1


def test_a_stem_of_two_norms_forgets_how_a_patch_was_lit():
    stem = DualPatchNorm(12, norm_epsilon=0.0)
    images = jax.random.normal(jax.random.key(0), (1, 32, 48, 3))
    rng = np.random.default_rng(0)
    light, contrast = (jnp.asarray(x) for x in rng.uniform(0.5, 2, size=(2, 1, 2, 3, 1)))
    lit = [jnp.repeat(jnp.repeat(x.astype(jnp.float32), 16, 1), 16, 2) for x in (light, contrast)]
    params = drawn(stem, images)
    whole, other = applied(stem, params, images, lit[0] + lit[1] * images)
    assert whole.shape == (1, 2, 3, 12)
    compare.assert_relative(other, whole, 1e-4)
    # the equation, in numpy
    params = jax.tree.map(np.asarray, params)

    def norm(x, own):
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return x * own["scale"] + own["bias"]

    patches = np.asarray(images).reshape(1, 2, 16, 3, 16, 3).transpose(0, 1, 3, 2, 4, 5)
    x = norm(patches.reshape(1, 2, 3, -1), params["pixel_norm"])
    x = x @ params["proj"]["kernel"] + params["proj"]["bias"]
    compare.assert_relative(whole, norm(x, params["norm"]), 1e-5)


def test_two_norms_of_patches_are_the_papers_count():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def count(**fields):
        model = create_model("vit_tiny_patch16_224", **fields)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(stem="dual_patchnorm") - count() == 2 * 768 + 2 * 192


@pytest.mark.parametrize("placement", ["post", "sandwich"])
def test_norms_stand_where_they_are_asked_for(placement):
    fields = {"mixer": "attention", "heads": 1, "mlp_hidden": 8, "ln_placement": placement}
    block = Block(**fields)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = drawn(block, x)

    def norm(x, name):
        return LayerNorm().apply({"params": params[name]}, x)

    mixer = create_mixer("attention", heads=1)
    branches = (
        lambda x: mixer.apply({"params": params["mixer"]}, x),
        lambda x: Mlp(8).apply({"params": params["mlp"]}, x),
    )
    y = x
    for index, branch in enumerate(branches, 1):
        if placement == "post":
            y = norm(y + branch(y), f"norm{index}")
        else:
            y = y + norm(branch(norm(y, f"norm{index}")), f"norm{index}_behind")
    compare.assert_relative(block.apply({"params": params}, x), y, 1e-5)


def test_weights_of_the_stem():
    for dim, expected in ((192, 48_384), (384, 188_928), (768, 746_496)):
        images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        params = nn.unbox(jax.eval_shape(HmlpStem(dim).init, jax.random.key(0), images))["params"]
        assert sum(params[f"conv{i}"]["kernel"].size for i in range(3)) == expected


def test_attention_alone_is_trained_by_a_pattern_of_what_is_frozen():
    """The one of docs/weights.md: mixers, head and positions move, the rest stays."""
    model = create_model("vit_small_patch16_18x2_224", depth=2, **TINY)
    images = jnp.zeros((1, 16, 16, 3))
    boxed = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    axes = jax.tree.map(axes_of, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    params = drawn(model, images)
    config = OptimConfig(weight_decay=0.1, freeze=(r"^(?!head|pos_embed|.*/mixer)",))
    optimizer = make_optimizer(config, lambda step: 0.1, params, axes)

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def step(params):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    moved = step(params)
    changed = {
        param_path(path): bool(np.any(old != new))
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(moved)
        )
    }
    trained = {path for path, is_changed in changed.items() if is_changed}
    assert trained == {
        path for path in changed if "/mixer_" in path or path.startswith(("head", "pos_embed"))
    }
    assert {"block_01/mixer_1/qkv/kernel", "head/kernel", "pos_embed"} <= trained


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("stem='conv' is not one of patches, hmlp", {"stem": "conv"}),
        ("power of two from 4 on", {"stem": "hmlp", "patch_size": 6, "img_size": 12}),
        ("no position_conv and no channel_attention", {"channel_attention": "se"}),
        ("'middle' is not one of pre, post, sandwich", {"ln_placement": "middle"}),
        ("parallel blocks add several", {"ln_placement": "post"}),
        ("parallel=1", {"token_reduction": {"method": "evit"}}),
    ],
)
def test_what_does_not_fit_is_told(message, fields):
    model = create_model("vit_small_patch16_18x2_224", depth=1, **{**TINY, **fields})
    images = jnp.zeros((1, model.img_size, model.img_size, 3))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images)

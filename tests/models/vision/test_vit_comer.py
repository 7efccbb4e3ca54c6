"""ViT-CoMer: the suite of every model, counts of the release, what tokens and scales tell."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "img_size": 32,
    "dim": 8,
    "depths": (1, 1, 1, 1),
    "heads": 2,
    "mlp_ratio": 2.0,
    "stem_dim": 2,
    "pyramid_ratio": 1.0,
    "deform_heads": 2,
    "points": 1,
    "extra": 1,
    "num_classes": 5,
}


class VitComerSuite(ModelSuite):
    family = "vit_comer"
    # The others differ in widths and depths; all are counted below.
    names = ("vit_comer_tiny",)
    small = (
        # One stage: compiling is what it costs, and the authors' numbers are of four.
        ModelCase(
            "vit_comer_tiny",
            {**TINY, "depths": (2,), "stage_maps": False},
            input_size=(64, 32, 3),
            other_inputs=((32, 96, 3),),
        ),
    )
    # Batch norms behind them take away what is the same everywhere.
    vanishing = r"pyramid\d/level\d_conv\d/bias|(project0|enlarge)/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("vit_comer", VitComerSuite.names)


@pytest.mark.parametrize(("size", "published"), [("tiny", 38.7), ("small", 61.4), ("base", 144.7)])
def test_counts_are_the_releases_with_its_heads(size, published):
    """UperNet of 512 channels and an auxiliary head of 256, for 150 classes, on the four maps."""
    info = model_info(f"vit_comer_{size}")
    dim, classes = info.features[0].channels, 150

    def conv_norm(side, inputs, outputs):
        return side**2 * inputs * outputs + 2 * outputs

    decode = 4 * conv_norm(1, dim, 512) + conv_norm(3, dim + 4 * 512, 512)
    decode += 3 * (conv_norm(1, dim, 512) + conv_norm(3, 512, 512)) + conv_norm(3, 4 * 512, 512)
    heads = decode + 513 * classes + conv_norm(3, dim, 256) + 257 * classes
    counted = info.params - (dim + 1) * 1000 + heads
    assert round(counted / 1e6, 1) == published


def seeded(**fields):
    """(model, variables off their start) with tokens that are told nothing."""
    model = create_model("vit_comer_tiny", **{**TINY, "num_classes": 0, **fields})
    images = jnp.zeros((1, 32, 32, 3))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "to_tokens" in name and "layer_scale" in name:
            return np.zeros(leaf.shape, np.float32)
        values = 0.3 * rng.normal(size=leaf.shape)
        return np.asarray(1 + 0.1 * values if "variance" in name else values, np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def test_the_plain_vit_is_kept_and_its_tokens_are_added_to_the_maps():
    images = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
    _, variables = seeded()
    params = variables["params"]
    kinds = (True, False, None)
    models = {kind: seeded(stage_maps=kind)[0] for kind in kinds}

    def of_all(x):
        # Compiled at once, what they share is worked out once.
        return [models[k].apply(variables, x, method="features") for k in kinds]

    maps = dict(zip(kinds, jax.jit(of_all, compiler_options=COMPILER_OPTIONS)(images)))
    plain = {f"block_{i:02d}": params[f"stage{i}_block_00"] for i in range(4)}
    plain |= {name: params[name] for name in ("patch_embed",)}
    plain["pos_embed"] = params["pos_embed"][1:]
    plain["norm"] = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    shared = ("img_size", "dim", "heads", "mlp_ratio")
    vit = create_model(
        "vit_tiny_patch16_224",
        **{name: TINY[name] for name in shared},
        depth=4,
        layer_scale=1.0,
        class_token=False,
        pool="avg",
        fc_norm=False,
        num_classes=0,
    )
    run = jax.jit(
        lambda x: vit.apply({"params": plain}, x, method="features"),
        compiler_options=COMPILER_OPTIONS,
    )
    tokens = run(images)

    def told(index, stage_maps):
        """What a map has more than without the tokens: its norm's scale is divided out."""
        scale = params[f"norm{index}"]["scale"]
        deviation = np.sqrt(variables["batch_stats"][f"norm{index}"]["variance"] + 1e-5)
        return (maps[stage_maps][index] - maps[None][index]) * deviation / scale

    def normed(x):
        x = np.asarray(x, np.float64) - np.mean(x, -1, keepdims=True)
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)

    # At a sixteenth the tokens are added as they are: of the third stage, or the last.
    compare.assert_relative(normed(told(2, True)), tokens[2], 1e-3)
    compare.assert_relative(normed(told(2, False)), tokens[3], 1e-3)
    last = np.asarray(told(2, False))
    means = last.reshape(2, 2, 2, 1, 2, 8).mean((2, 4))
    compare.assert_relative(told(3, True), means, 1e-3)
    # Twice as large, a corner is the corner, and between two pixels lie three quarters of one.
    twice = np.asarray(told(1, False))
    compare.assert_relative(twice[:, 0, 0], last[:, 0, 0], 1e-3)
    compare.assert_relative(twice[:, 1, 0], 0.75 * last[:, 0, 0] + 0.25 * last[:, 1, 0], 1e-3)


@pytest.mark.parametrize(
    ("fields", "shape", "error", "told"),
    [
        ({"depths": (2, 2)}, (32, 32), UserError, "gives each of four maps a stage"),
        ({}, (48, 32), ValueError, "multiples of 32"),
        ({"deform_heads": 3}, (32, 32), UserError, "heads=3 do not divide"),
    ],
)
def test_mistakes(fields, shape, error, told):
    model = create_model("vit_comer_tiny", **{**TINY, **fields})
    with pytest.raises(error, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))


def test_stages_may_be_fewer_where_all_maps_are_told_the_same():
    model = create_model("vit_comer_tiny", **{**TINY, "depths": (1, 2), "stage_maps": False})
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert {"stage1_block_01", "to_levels1"} <= set(variables["params"])

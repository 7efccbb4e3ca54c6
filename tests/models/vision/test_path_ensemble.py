"""A ViT as the sum of its paths: the sum, its scales, what is pruned, what each path is worth."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.models.blocks import stack_blocks
from scanmax.models.taps import read_taps
from scanmax.models.vision.path_ensemble import path_ablation
from scanmax.testing import compare

SMALL = {"dim": 8, "depth": 3, "heads": 2, "mlp_ratio": 2.0, "img_size": 8, "patch_size": 4}
DOUBLE = {"dtype": jnp.float64, "param_dtype": jnp.float64}
PATHS = 6


def build(seed=0, **fields):
    """A model in float64 with random parameters."""
    model = scanmax.create_model(
        "vit_tiny_patch16_224", num_classes=5, **{**SMALL, **DOUBLE, **fields}
    )
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images()))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape) + 0.1)  # noqa: E731
    return model, jax.tree.map(draw, {"params": shapes["params"]})


def images():
    return jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_the_sum_of_the_paths_is_the_ordinary_output():
    """Of looped and scanned blocks, with a scale of each branch and without."""
    model, variables = build(layer_scale=0.5)

    @jax.jit
    def run(variables, x):
        logits, sown = model.apply(variables, x, mutable=["intermediates"])
        paths = model.apply(variables, x, method="path_outputs")
        again = model.apply(variables, paths.sum(0), method="from_sum")
        return logits, read_taps(sown["intermediates"]), paths, again

    logits, taps, paths, again = run(variables, images())
    assert paths.shape == (1 + PATHS, 4, 5, 8)
    compare.assert_relative(again, logits, 1e-12)
    compare.assert_relative(paths[0], taps["stem"], 1e-12)
    for block in range(3):
        expected = taps[f"block_{block:02d}/output"]
        compare.assert_relative(paths[: 3 + 2 * block].sum(0), expected, 1e-12)
    stacked = {"params": stack_blocks(variables["params"])}
    scanned = model.clone(scan_layers=True)
    found = jax.jit(lambda v, x: scanned.apply(v, x, method="path_outputs"))(stacked, images())
    compare.assert_relative(found, paths, 1e-12)


def test_scales_and_pruning_are_of_the_sum_alone():
    plain, variables = build()
    model, given = build(ensemble_scale=1.0, pruned_paths=(1, 4))
    shape = jax.tree.map(jnp.shape, given["params"])
    rng = np.random.default_rng(2)
    scales = rng.normal(size=(PATHS, 8))
    params = dict(variables["params"])
    for path in {0, 2, 3, 5}:
        block, name = f"block_{path // 2:02d}", f"ensemble_scale{path % 2 + 1}"
        params[block] = {**params[block], name: {"scale": jnp.asarray(scales[path])}}
    # a path that is pruned has no scale
    assert jax.tree.map(jnp.shape, params) == shape

    @jax.jit
    def run(variables, scaled, x):
        bare = plain.apply(variables, x, method="path_outputs")
        entering = model.apply(scaled, x, method="path_outputs")
        expected = plain.apply(variables, entering.sum(0), method="from_sum")
        loss = lambda scaled: jnp.sum(jnp.sin(model.apply(scaled, x)))  # noqa: E731
        maps = model.apply(scaled, x, method="features")[-1]
        last = plain.apply(variables, entering.sum(0), method="from_sum")
        return bare, entering, expected, model.apply(scaled, x), jax.grad(loss)(scaled), maps, last

    bare, entering, expected, logits, gradient, maps, _ = run(
        variables, {"params": params}, images()
    )
    compare.assert_relative(entering[0], bare[0], 1e-12)
    for path in range(PATHS):
        own = np.zeros_like(bare[0]) if path in (1, 4) else scales[path] * bare[1 + path]
        compare.assert_relative(entering[1 + path], own, 1e-12)
    compare.assert_relative(logits, expected, 1e-12)
    # the head reads the last map
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)  # noqa: E731
    affine = params["norm"]
    total = norm(np.asarray(entering.sum(0))) * affine["scale"] + affine["bias"]
    compare.assert_relative(maps.reshape(4, 4, 8), total[:, 1:], 1e-10)
    for leaf in jax.tree.leaves(gradient["params"]["block_01"]):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_ones_are_the_plain_model():
    plain, variables = build()
    model = plain.clone(ensemble_scale=1.0)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images()))["params"]
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (shapes, variables["params"])
    ]
    assert counts[0] - counts[1] == PATHS * 8
    ones = {"scale": jnp.ones(8)}
    params = {
        name: {**own, "ensemble_scale1": ones, "ensemble_scale2": ones} if "block" in name else own
        for name, own in variables["params"].items()
    }
    given = ({"params": params}, images())
    compare.assert_relative(model.apply(*given), plain.apply(variables, images()), 1e-12)


def test_what_a_path_is_worth_is_counted_by_leaving_it_out():
    model, variables = build(pool="avg", class_token=False, fc_norm=False, seed=3)
    labels = jnp.asarray([0, 1, 2, -1])
    found = path_ablation(model, variables, [(images(), labels), (images() + 1, labels[::-1])])

    def right(model):
        logits = [model.apply(variables, x) for x in (images(), images() + 1)]
        answers = np.argmax(np.concatenate(logits), -1)
        truth = np.concatenate([labels, labels[::-1]])
        return np.sum(answers == truth) / 6

    assert found.accuracy == right(model)
    expected = [right(model.clone(pruned_paths=(path,))) for path in range(PATHS)]
    np.testing.assert_allclose(found.without, expected)
    paths = [model.apply(variables, x, method="path_outputs") for x in (images(), images() + 1)]
    norms = np.linalg.norm(np.concatenate(paths, 1)[1:].mean(2), axis=-1)
    np.testing.assert_allclose(found.norms, norms[:, [0, 1, 2, 5, 6, 7]].mean(1))
    with pytest.raises(UserError, match="no image has a label"):
        path_ablation(model, variables, [(images(), jnp.full(4, -1))])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pruned_paths": (6,)}, r"pruned_paths: \[6\] of 3 blocks, whose paths are 0 to 5"),
        ({"ensemble_scale": 1.0, "parallel": 2}, "paths are of plain blocks"),
        ({"ensemble_scale": 1.0, "prompts": 2}, "paths are of plain blocks"),
        ({"ensemble_scale": 1.0, "ln_placement": "post"}, "paths add up where blocks add"),
        ({"pruned_paths": (0,), "scan_layers": True}, "needs equal blocks"),
    ],
)
def test_what_has_no_paths_is_told(fields, message):
    model = scanmax.create_model("vit_tiny_patch16_224", num_classes=5, **{**SMALL, **fields})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images())

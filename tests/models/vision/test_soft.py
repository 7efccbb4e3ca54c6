"""SOFT: the suite of every model, published counts and costs, post-norm blocks, positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.layers import DropPath
from scanmax.models.vision.soft import DropEntries, PostNormBlock
from scanmax.models.weights.load import load_weights
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (8, 4),
    "depths": (1, 2),
    "heads": (2, 2),
    "mlp_ratio": 2.0,
    "stem_dim": 4,
    "mixer": ("soft", "attention"),
    "ratios": (2, 1),
    "conv_sizes": (3, 3),
    "img_size": 16,
    "num_classes": 5,
}


class SoftSuite(ModelSuite):
    family = "soft"
    # The others differ in depths and widths; all are counted below.
    names = ("soft_tiny", "soft_norm_tiny")
    small = (
        ModelCase(
            "soft_tiny",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"(stem|downsample)\d/conv/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("soft", SoftSuite.names)


@pytest.mark.parametrize("name", ["soft_tiny", "soft_norm_tiny"])
def test_multiply_adds_are_the_papers(name):
    """The papers do not count the pseudo-inverse; of the other sizes the released depths differ."""
    model = create_model(name)
    heads = sum(h * d for h, d in zip(model.heads[:3], model.depths[:3], strict=True))
    # Two products of 49 by 49 in each step, one more to start SOFT++.
    products = heads * (41 if model.normalize else 40) * 49**3
    assert (default_multiply_adds(name) - products) / 1e9 == pytest.approx(1.9, abs=0.05)


def test_sums_are_normed_behind_both_branches():
    block = PostNormBlock("soft", 2, 8, mixer_options={"soft": {"conv_size": 0}})
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 4)), jnp.float32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, grid=(4, 4)))
    # Without branches each norm sees what came in; the first gives its bias alone.
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.unbox(shapes))
    for name, scale, bias in (("norm1", 1, 2), ("norm2", 3, 4)):
        params["params"][name] = {"scale": jnp.full(4, scale, jnp.float32)}
        params["params"][name]["bias"] = bias * jnp.arange(4, dtype=jnp.float32)

    def norm(x, scale, bias):
        x = x - x.mean(-1, keepdims=True)
        return scale * x / np.sqrt(np.mean(x**2, -1, keepdims=True)) + bias * np.arange(4)

    expected = norm(norm(np.asarray(x, np.float64), 1, 2), 3, 4)
    np.testing.assert_allclose(block.apply(params, x, grid=(4, 4)), expected, atol=1e-4)


def test_entries_of_a_branch_drop_apart():
    x = jnp.ones((64, 4, 8))
    for entries, drop in ((False, DropPath()), (True, DropEntries())):
        y = np.asarray(drop.apply({}, x, 0.25, True, rngs={"dropout": jax.random.key(0)}))
        kept = y != 0
        np.testing.assert_allclose(y[kept], 4 / 3, rtol=1e-6)
        assert np.all(kept.all((1, 2)) | ~kept.any((1, 2))) is np.bool_(not entries)
        assert abs(kept.mean() - 0.75) < (0.05 if entries else 0.2)


def test_positions_of_other_images_are_adapted_stage_by_stage():
    rng, shapes = np.random.default_rng(0), {}
    small, large = (create_model("soft_tiny", **{**TINY, "img_size": side}) for side in (16, 32))
    for model, side in ((small, 16), (large, 32)):
        images = jnp.zeros((1, side, side, 3))
        shapes[side] = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes[16])
    source = {
        "/".join(str(key.key) for key in path): leaf.astype(np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    loaded = load_weights(large, source, (32, 32, 3), adapt=["positions"])
    adapted = nn.unbox(loaded)["params"]
    for stage, prefix in ((0, 0), (1, 1)):
        name = f"pos_embed_{stage}"
        table, own = adapted[name], source[f"params/{name}"]
        assert table.shape == shapes[32]["params"][name].shape
        # The class token's row stays; a corner of the finer grid is nearest to the same corner.
        np.testing.assert_array_equal(table[:prefix], own[:prefix])
        assert np.corrcoef(table[prefix], own[prefix])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ratios": (2,)}, "expected 2 entries each"),
        ({"patch_size": 2}, "patch_size=2: the stem halves twice"),
    ],
)
def test_mistakes(fields, told):
    model = create_model("soft_tiny", **{**TINY, **fields})
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

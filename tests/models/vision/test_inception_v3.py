"""Inception v3: the suite of every model, its maps, factorised kernels, the auxiliary head."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.vision.inception_v3 import average3x3
from scanmax.models.weights import load_weights
from scanmax.testing import ModelCase, ModelSuite, compare

NAME = "inception_v3"
TINY = {"pooled_dims": (32,), "inner_dims": (128,), "last_depth": 1, "width_ratio": 1 / 32}
TINY["num_classes"] = 5


class InceptionV3Suite(ModelSuite):
    family = "inception_v3"
    small = (
        ModelCase(NAME, TINY, input_size=(75, 75, 3), other_inputs=((96, 75, 3), (79, 90, 3))),
    )

    def test_every_variant_has_the_maps_it_announces(self):
        # Without padding they are smaller than the image over their stride.
        info = model_info(NAME)
        variables = nn.unbox(self.shapes(NAME)[1])
        maps = jax.eval_shape(
            lambda variables, images: create_model(NAME).apply(
                variables, images, method="features"
            ),
            variables,
            info.example(2),
        )
        sides = (147, 71, 35, 17, 8)
        for entry, side, feature in zip(maps, sides, info.features, strict=True):
            self.assertEqual(entry.shape, (2, side, side, feature.channels))
            self.assertEqual(299 // (feature.stride * side), 1)


def test_multiply_adds():
    # As timm's and torchvision's tables have it; the paper says five billion.
    assert default_multiply_adds(NAME) / 1e9 == pytest.approx(5.7, abs=0.05)


def test_factorised_kernels_are_lighter():
    """Two 3x3 kernels weigh 18/25 of one of 5x5; a row and a column of n weigh 2/n of n x n."""
    variables = jax.eval_shape(
        create_model(NAME).init, jax.random.key(0), model_info(NAME).example()
    )
    block = nn.unbox(variables)["params"]["mixed6b"]
    row, column = (block[f"branch7x7dbl_{i}"]["conv"]["kernel"] for i in (3, 2))
    assert row.shape[:2] == (1, 7)
    assert column.shape[:2] == (7, 1)
    assert (row.size + column.size) / (49 * 128 * 128) == 2 / 7
    double = nn.unbox(variables)["params"]["mixed5b"]["branch3x3dbl_3"]["conv"]["kernel"]
    assert 2 * double.size / (25 * 96 * 96) == 18 / 25


def test_averages_count_zeros_outside():
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    compare.assert_relative(average3x3(x), nn.avg_pool(x, (3, 3), padding="SAME"), 1e-6)


def test_auxiliary_head():
    """Training gives both heads' logits, evaluation the first; weights come with it or without."""
    plain = create_model(NAME, **TINY)
    model = plain.clone(aux_logits=True)
    images = jnp.zeros((2, 299, 299, 3))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)

    def train(variables, images):
        return model.apply(variables, images, True, mutable=["batch_stats"])[0]

    outputs = jax.eval_shape(train, variables, images)
    assert [entry.shape for entry in outputs] == [(2, 5), (2, 5)]
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)
    with pytest.raises(ValueError, match="at least 299 pixels"):
        jax.eval_shape(model.apply, variables, images[:, 1:])
    with pytest.raises(ValueError, match="at least 75 pixels"):
        jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 75, 74, 3)))
    loaded = nn.unbox(load_weights(plain, variables, (75, 75, 3), adapt=["head"]))
    assert "aux" not in loaded["params"]
    chex.assert_trees_all_equal(loaded["params"]["mixed7b"], variables["params"]["mixed7b"])
    back = nn.unbox(load_weights(model, loaded, (299, 299, 3), adapt=["head"]))
    assert np.any(back["params"]["aux"]["fc"]["kernel"])


def test_auxiliary_head_has_the_published_count():
    model = create_model(NAME, aux_logits=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), model_info(NAME).example())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 27_161_264

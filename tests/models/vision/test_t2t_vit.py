"""T2T-ViT: the suite of every model, the windows, published counts and costs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.mixers import create_mixer
from scanmax.models.mixers.attention.dot_product import SCALES
from scanmax.models.vision.t2t_vit import soft_split
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

SMALL = {"dim": 8, "depth": 2, "heads": 2, "token_dim": 4, "img_size": 16, "patch_size": 8}


class T2tVitSuite(ModelSuite):
    family = "t2t_vit"
    # One of either stem; all are counted below.
    names = ("t2t_vit_7", "t2t_vit_t_14")
    small = (
        ModelCase(
            "t2t_vit_7",
            {**SMALL, "num_classes": 5},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (40, 32, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("t2t_vit", T2tVitSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("t2t_vit_14", 4.8), ("t2t_vit_t_14", 6.1), ("t2t_vit_19", 8.5), ("t2t_vit_24", 13.8)],
)
def test_multiply_adds_are_the_papers(name, published):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(published, rel=0.011)


def test_windows_of_a_soft_split():
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 2)).astype(np.float32)
    windows = soft_split(jnp.asarray(x), 7, 4, 2)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    assert windows.shape == (1, 2, 3, 98)
    for row, column in ((0, 0), (1, 2)):
        window = padded[0, 4 * row : 4 * row + 7, 4 * column : 4 * column + 7]
        np.testing.assert_array_equal(windows[0, row, column], window.transpose(2, 0, 1).ravel())


def test_what_the_release_divides_logits_by():
    """Logits over the root of the model's width are those over a head's of smaller queries."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32)
    head, model = (create_mixer("attention", heads=4, options={"scale": s}) for s in SCALES)
    shapes = nn.unbox(jax.eval_shape(head.init, jax.random.key(0), x))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    smaller = jax.tree.map(np.copy, params)
    for part in smaller["qkv"].values():
        part[..., 0, :, :] /= 2

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def run(params, smaller):
        return model.apply({"params": params}, x), head.apply({"params": smaller}, x)

    compare.assert_relative(*run(params, smaller), 1e-5)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("stem='hmlp' is not one of performer", {"stem": "hmlp"}),
        ("power of two from 8 on", {"patch_size": 4}),
        ("scale='width' is not one of head, model", {"scale": "width"}),
    ],
)
def test_what_does_not_fit_is_told(message, fields):
    model = create_model("t2t_vit_7", **{**SMALL, **fields})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))

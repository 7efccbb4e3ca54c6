"""SCNet: the suite of every model, counts of the released code, and how maps are enlarged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.parts.upsample import bilinear_upsample, pixel_shuffle
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dim": 8, "depth": 2, "out_channels": 2}


class ScNetSuite(ModelSuite):
    family = "scnet"
    # The others differ in how often they enlarge; all are counted below.
    names = ("scnet_t_x4",)
    small = (
        ModelCase("scnet_t_x2", TINY, input_size=(3, 4, 2), other_inputs=((5, 1, 2), (1, 1, 2))),
    )


def test_every_size_has_its_exact_count():
    for name in sorted(set(list_models(family="scnet")) - set(ScNetSuite.names)):
        info = model_info(name)
        model, example = create_model(name, scan_layers=True), info.example()
        made, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), example)
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == info.params, name
        assert made.shape == (1, 64 * model.upscale, 64 * model.upscale, 3)


def test_maps_are_enlarged_between_pixels():
    x, factor = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32), 3
    expected = np.zeros((2, 9, 15, 2))
    for u, v in np.ndindex(9, 15):
        places = [(place + 0.5) / factor - 0.5 for place in (u, v)]
        for i, j in np.ndindex(3, 5):
            # Beyond the outer middles the outer pixels go on.
            inside = [min(max(place, 0), side - 1) for place, side in zip(places, (3, 5))]
            shares = [max(0, 1 - abs(place - pixel)) for place, pixel in zip(inside, (i, j))]
            expected[:, u, v] += shares[0] * shares[1] * x[:, i, j]
    actual = jax.jit(lambda x: bilinear_upsample(x, factor))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_shuffled_channels_are_places_in_their_order():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 18)).astype(np.float32)
    y = np.asarray(pixel_shuffle(x, 3))
    assert y.shape == (2, 9, 15, 2)
    for u, v, c, i, j in np.ndindex(3, 5, 2, 3, 3):
        np.testing.assert_array_equal(y[:, 3 * u + i, 3 * v + j, c], x[:, u, v, 9 * c + 3 * i + j])


def test_another_mixer_and_other_channels():
    model = create_model("scnet_t_x2", **TINY, mixer=("shift_conv", "window"), heads=2)
    shape = (1, 4, 4, 3)
    made, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros(shape))
    assert made.shape == (1, 8, 8, 2)
    assert "qkv" in variables["params"]["block_01"]["mixer"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"upscale": 6}, "expected 3, or a power of two"),
        ({"upscale": 1}, "expected 3, or a power of two"),
        ({"upsampler": "bilinaer"}, "did you mean 'bilinear'"),
        ({"dim": 12}, "8 does not divide 12"),
        ({"mixer": ("shift_conv",)}, "expected one or 16"),
    ],
)
def test_what_does_not_fit_is_refused(fields, told):
    model = create_model("scnet_t_x4", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))

"""Transforms of parameters: the steps of a quantised weight, and the same values everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config
from scanmax.train.transforms import TRANSFORMS


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_steps_are_even_and_symmetric_per_channel(bits):
    weights = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    weights[:, 2] = 0
    found = TRANSFORMS["fake_quantize"](match=("kernel",), bits=bits)(
        {"kernel": jnp.asarray(weights), "bias": jnp.ones(3) / 3}, {}
    )
    top = 2 ** (bits - 1) - 1
    for channel in range(3):
        scale = np.abs(weights[:, channel]).max() / top
        steps = np.asarray(found["kernel"][:, channel]) / (scale or 1)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        assert np.abs(steps).max() <= top + 1e-4
        assert np.abs(found["kernel"][:, channel] - weights[:, channel]).max() <= scale / 2 + 1e-7
    np.testing.assert_array_equal(found["bias"], jnp.ones(3) / 3)


def test_stacked_layers_have_scales_of_their_own_and_gradients_pass():
    transform = TRANSFORMS["fake_quantize"](match=("kernel",))
    layers = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    layers[1] *= 100
    stacked = transform({"blocks": {"kernel": jnp.asarray(layers)}}, {})["blocks"]["kernel"]
    for index in range(2):
        alone = transform({"block_00": {"kernel": jnp.asarray(layers[index])}}, {})
        np.testing.assert_array_equal(stacked[index], alone["block_00"]["kernel"])
    slope = jax.grad(lambda w: jnp.sum(transform({"kernel": w}, {})["kernel"] * layers))(
        jnp.ones((2, 5, 3))
    )
    np.testing.assert_array_equal(slope, layers)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"match": ("kernl",)}, "'kernl' matches no parameter"),
        ({"match": ("kernel",), "bits": 9}, "bits=9 must be from 2 to 8"),
        ({"match": "kernel"}, "must be a tuple"),
        ({}, "needs the option 'match'"),
    ],
)
def test_mistakes_are_one_line(options, expected):
    config = Config(transforms=(("fake_quantize", options),), batch_size=16)
    with pytest.raises(UserError, match=expected):
        build(config, pipeline=SmallImages(), model=SmallNet())


class FakeQuantizeSuite(ObjectiveSuite):
    """What is exported are the quantised values: the suite compares them."""

    fields = {"transforms": (("fake_quantize", {"match": ("model/.*kernel",), "bits": 4}),)}
    frozen = ("head_dist",)

"""MLP-Mixer, gMixer and ResMLP: the suite of every model, and weights over tokens at any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.models.mixers import create_mixer
from scanmax.testing import ModelCase, ModelSuite

SMALL = {"img_size": 16, "patch_size": 4, "dim": 8, "depth": 2, "num_classes": 5}
SIZES = {"input_size": (16, 16, 3), "other_inputs": ((24, 16, 3),)}


class MixerSuite(ModelSuite):
    family = "mixer"
    # What the others are made of; all of them are counted below.
    names = ("mixer_s32_224", "gmixer_12_224", "resmlp_12_224")
    small = (
        ModelCase("mixer_s32_224", SMALL, **SIZES),
        ModelCase("gmixer_12_224", SMALL, **SIZES),
        ModelCase("resmlp_12_224", SMALL, **SIZES),
    )
    # A layer norm takes away what is added to all channels of a token.
    vanishing = r".*/fc2_bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("mixer", MixerSuite.names)


@pytest.mark.parametrize("hidden", [0, 6])
def test_weights_of_a_smooth_map_serve_twice_as_fine_a_map(hidden):
    # On a map that is the same everywhere, weights that vary slowly give the same at any size.
    options = {"token_grid": (4, 4), "hidden": hidden}
    mixer = create_mixer("token_mlp", heads=1, options=options)
    x = jnp.broadcast_to(jnp.arange(1.0, 4.0), (1, 16, 3))
    params = jax.tree.map(jnp.ones_like, mixer.init(jax.random.key(0), x, grid=(4, 4)))
    small = mixer.apply(params, x, grid=(4, 4))
    large = mixer.apply(params, jnp.repeat(x, 4, 1), grid=(8, 8))
    np.testing.assert_allclose(large, jnp.repeat(small, 4, 1), rtol=1e-5)

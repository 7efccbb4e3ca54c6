"""RWKV-CLIP's image tower: the suite of every model, published counts, initial values in order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models import create_model, list_models, model_info
from scanmax.models.mixers.scan.wkv import ChannelMix
from scanmax.testing import ModelCase, ModelSuite, compare

TINY = {"img_size": 16, "patch_size": 8, "dim": 8, "depth": 2, "heads": 2, "num_classes": 5}


class RwkvClipSuite(ModelSuite):
    family = "rwkv_clip"
    # The other has smaller patches; it is counted below.
    names = ("rwkv_clip_b32",)
    small = (ModelCase("rwkv_clip_b32", TINY, (16, 16, 3), ((24, 16, 3),)),)


def test_every_published_size_has_its_exact_count():
    for name in list_models(family="rwkv_clip"):
        model = create_model(name)
        dim, hidden = model.dim, round(model.dim * model.mlp_ratio)
        mixer = 5 * dim**2 + 2 * 5 * 32 * dim + 2 * 64 * dim + (6 + 1 + 1 + 2) * dim
        channel = 2 * dim * hidden + dim**2 + 2 * dim
        side = model.patch_size
        total = model.depth * (mixer + channel + 4 * dim) + 4 * dim
        total += (3 * side**2 + 1 + (224 // side) ** 2) * dim + (dim + 1) * 1000
        assert total == model_info(name).params, name


@pytest.mark.parametrize("near", [False, True])
def test_channel_mix_is_its_equation(near):
    """On a row of tokens, half of each head's channels from either side."""
    mix = ChannelMix(2, hidden=6, shares_near=near, layer=1, layers=3)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    params = nn.unbox(mix.init(jax.random.key(0), x))["params"]
    heads = np.pad(x.reshape(1, 5, 2, 4), ((0, 0), (1, 1), (0, 0), (0, 0)))
    other = np.concatenate([heads[:, :-2, :, :2], heads[:, 2:, :, 2:]], -1).reshape(x.shape)

    def mixed(name):
        share = np.asarray(params[f"mix_{name}"])
        share = share if near else 1 - share
        return x + (other - x) * share

    hidden = np.maximum(mixed("key") @ params["key"]["kernel"], 0) ** 2
    gate = 1 / (1 + np.exp(-np.asarray(mixed("receptance") @ params["receptance"]["kernel"])))
    expected = gate * (hidden @ params["value"]["kernel"])
    compare.assert_relative(mix.apply({"params": params}, x), expected, 1e-5)
    # The released start: the token's own share grows with the channel.
    ramp = (np.arange(8) / 8) ** (2 / 3)
    compare.assert_relative(params["mix_key"], 1 - ramp if near else ramp, 1e-6)


def test_layers_start_by_their_place_and_scanned_ones_as_the_first():
    model = create_model("rwkv_clip_b32", **TINY)
    init = jax.jit(lambda key, x: nn.unbox(model.init(key, x)))
    params = init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    first, last = (params[f"block_0{index}"]["mixer"]["decay"] for index in (0, 1))
    ramp = np.arange(8) / 7
    compare.assert_relative(first, -6 + 5 * ramp**0.7, 1e-6)
    compare.assert_relative(last, -6 + 5 * ramp**2, 1e-6)
    fields = model.clone(scan_layers=True).block_fields()
    assert fields[0] == fields[1] == model.block_fields()[0]

"""FNO: the suite of every model, counts of the released code, and patches of several grids."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.parts.fourier import released_ranks
from scanmax.models.vision.fno import multigrid_patches, stitched
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dim": 4, "depth": 2, "modes": (4, 4), "share": 0.5, "out_channels": 2, "norm": "group"}


class FnoSuite(ModelSuite):
    family = "fno"
    # The others differ in widths and modes; all are counted below.
    names = ("fno2d_small", "tfno2d_small")
    small = (
        ModelCase("tfno2d_small", TINY, input_size=(6, 8, 1), other_inputs=((5, 7, 1), (2, 3, 1))),
    )


def test_every_size_has_its_exact_count():
    for name in sorted(set(list_models(family="fno")) - set(FnoSuite.names)):
        info = model_info(name)
        shapes = jax.eval_shape(create_model(name).init, jax.random.key(0), info.example())
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == info.params, name


@pytest.mark.parametrize("sizes", [(16, 9, 24, 24), (64, 33, 128, 128)])
def test_ranks_keep_a_share_of_the_weights(sizes):
    whole = math.prod(sizes)
    ranks = released_ranks(sizes, "tucker", 0.1)
    count = math.prod(ranks) + sum(size * rank for size, rank in zip(sizes, ranks))
    assert abs(count / whole - 0.1) < 0.01
    rank = released_ranks(sizes, "cp", 0.1)[0]
    assert abs(rank * sum(sizes) / whole - 0.1) < 0.001


@pytest.mark.parametrize(("levels", "padding"), [(1, (0, 2)), (2, (1, 0))])
def test_crops_are_centred_and_patches_are_stitched(levels, padding):
    x = np.random.default_rng(0).normal(size=(2, 32, 16, 3)).astype(np.float32)
    parts = 2**levels
    patches = multigrid_patches(jnp.asarray(x), levels, padding)
    np.testing.assert_array_equal(stitched(patches[..., :3], levels, padding), x)
    by_place = np.asarray(patches).reshape(2, parts, parts, *patches.shape[1:])
    for level in range(levels + 1):
        coarse = x[:, :: 2**level, :: 2**level]
        for place in np.ndindex(parts, parts):
            crop = coarse
            for axis in (0, 1):
                side = x.shape[1 + axis] // parts
                middle = (place[axis] + 0.5) * side / 2**level
                first = math.floor(middle - side / 2) - padding[axis]
                indices = range(first, first + side + 2 * padding[axis])
                crop = crop.take(indices, axis=1 + axis, mode="wrap")
            channels = slice(3 * level, 3 * level + 3)
            np.testing.assert_array_equal(by_place[:, place[0], place[1], ..., channels], crop)


def test_a_network_of_patches_is_the_network_on_each():
    fields = {**TINY, "norm": None}
    apart = create_model("tfno2d_small", **fields)
    whole = create_model("tfno2d_small", **fields, levels=1, overlap=0.125)
    x = jax.random.normal(jax.random.key(0), (2, 16, 8, 1))
    variables = nn.unbox(jax.jit(whole.init)(jax.random.key(1), x))
    patches = multigrid_patches(x, 1, (2, 1))
    assert patches.shape == (8, 12, 6, 2)
    expected = stitched(jax.jit(apart.apply)(variables, patches), 1, (2, 1))
    actual = jax.jit(whole.apply)(variables, x)
    assert actual.shape == (2, 16, 8, 2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    maps = jax.eval_shape(lambda x: whole.apply(variables, x, method="features"), x)
    assert [map_.shape for map_ in maps] == [(2, 16, 8, 4)] * 2


def test_what_does_not_fit_is_refused():
    x = jnp.zeros((1, 6, 8, 1))
    for fields, message in (
        ({"norm": "groups"}, "did you mean 'group'"),
        ({"factorization": "tt"}, "is not one of None, 'tucker', 'cp'"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(create_model("fno2d_small", **fields).init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="of sides that 4 divides"):
        multigrid_patches(x, 1)

"""The Fourier layer in factors: how few numbers, and the same function from each."""

import math

import chex
import jax
import jax.numpy as jnp
import pytest
from small_mixers import compiled, mixer_and_variables

from scanmax.errors import UserError
from scanmax.models.mixers import create_mixer
from scanmax.models.mixers.spectral.fourier import tucker_ranks


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_factors_are_a_share_of_the_dense_weights(share):
    sizes = (12, 7, 64, 64)
    x = jax.ShapeDtypeStruct((1, 16, 64), jnp.float32)
    for kind in ("tucker", "cp"):
        mixer = create_mixer("fourier", heads=1, options={"factorization": kind, "share": share})
        params = jax.eval_shape(lambda x, m=mixer: m.init(jax.random.key(0), x, (4, 4)), x)[
            "params"
        ]
        numbers = sum(leaf.size for leaf in jax.tree.leaves(params)) - 64 * 64 - 64
        assert 0.8 * share < numbers / 2 / math.prod(sizes) < 1.05 * share
    ranks = tucker_ranks(sizes, 1.0)
    assert math.prod(ranks) + sum(map(math.prod, zip(sizes, ranks))) <= math.prod(sizes)


def test_weights_start_with_the_same_deviation():
    """Whole or in factors: the outputs of random tokens are of one size."""
    x = jax.random.normal(jax.random.key(1), (1, 64, 16))
    sizes = []
    for kind in (None, "tucker", "cp"):
        options = {"factorization": kind, "modes": (6, 4), "share": 0.5}
        mixer = create_mixer("fourier", heads=1, use_bias=False, options=options)
        made = compiled(lambda x, m=mixer: m.init_with_output(jax.random.key(0), x, (8, 8))[0], x)
        sizes.append(float(made(x).std()))
    chex.assert_trees_all_close(sizes, [sizes[0]] * 3, rtol=0.5)


def test_an_unknown_factorization_is_told():
    with pytest.raises(UserError, match="factorization='tt' is not one of None, 'tucker', 'cp'"):
        mixer_and_variables("fourier", {"factorization": "tt"})

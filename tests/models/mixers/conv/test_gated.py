"""g^n convolution: its cost at every order, and its other neighbourhood."""

import chex
import jax
import jax.numpy as jnp
import pytest
from small_mixers import compiled, mixer_and_variables

from scanmax.errors import UserError
from scanmax.models.analysis import multiply_adds_of
from scanmax.models.mixers import create_mixer


@pytest.mark.parametrize("order", [1, 3, 5])
def test_it_costs_less_than_the_papers_bound(order):
    width, side = 64, 14
    mixer = create_mixer("gn_conv", heads=1, options={"order": order})
    x = jax.ShapeDtypeStruct((1, side * side, width), jnp.float32)
    variables = jax.eval_shape(lambda x: mixer.init(jax.random.key(0), x, (side, side)), x)
    traced = jax.make_jaxpr(lambda v, x: mixer.apply(v, x, (side, side)))(variables, x)
    bound = side * side * width * (2 * 7**2 + 11 / 3 * width + 2)
    assert 0.4 * bound < multiply_adds_of(traced.jaxpr) < bound


def test_the_global_neighbourhood_reads_the_whole_map():
    options = {"order": 2, "neighbourhood": "global_local", "filter_grid": (3, 5)}
    mixer, variables, x = mixer_and_variables("gn_conv", options, grid=(5, 6))
    gradient = jax.grad(lambda x: mixer.apply(variables, x, grid=(5, 6))[0, 0].sum())
    influence = compiled(gradient, x)(x)
    assert float(jnp.abs(influence[0]).sum(-1).min()) > 0
    chex.assert_tree_all_finite(influence)


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="order=5: 2\\^\\(order - 1\\) must divide the width, 8"):
        mixer_and_variables("gn_conv", {"order": 5})
    with pytest.raises(UserError, match="neighbourhood='fft' is not one of conv, global_local"):
        mixer_and_variables("gn_conv", {"neighbourhood": "fft"})

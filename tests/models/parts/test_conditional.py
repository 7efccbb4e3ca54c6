"""CondConv as a layer: its routing, and layers that share it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.models.parts.conditional import CondConv


def test_an_example_chooses_its_own_kernel():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 4, 4, 4)), jnp.float32)
    layer = CondConv(8, 3, experts=2, groups=2, use_bias=True)
    variables = layer.init(jax.random.key(0), x)
    params = variables["params"]
    chex.assert_shape(params["kernel"].value, (2, 3, 3, 2, 8))
    chex.assert_shape(params["routing"]["kernel"].value, (4, 2))
    whole = layer.apply(variables, x)
    for b in range(3):
        alone = layer.apply(variables, x[b : b + 1])
        chex.assert_trees_all_close(whole[b : b + 1], alone, rtol=1e-5, atol=1e-6)
    chex.assert_shape(layer.apply(variables, x[:0]), (0, 4, 4, 8))


def test_given_weights_take_the_place_of_the_routing():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 2)), jnp.float32)
    layer = CondConv(2, 3, experts=3, groups=2)
    first, last = jnp.eye(3)[jnp.array([0, 0])], jnp.eye(3)[jnp.array([0, 2])]
    variables = layer.init(jax.random.key(0), x, first)
    assert set(variables["params"]) == {"kernel"}
    one, other = (layer.apply(variables, x, weights) for weights in (first, last))
    chex.assert_trees_all_close(one[0], other[0], rtol=1e-6)
    assert float(jnp.abs(one[1] - other[1]).max()) > 1e-2

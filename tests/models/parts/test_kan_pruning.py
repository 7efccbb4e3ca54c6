"""KANs without the nodes that do not matter."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.parts.kan import KanDense
from scanmax.models.parts.kan_pruning import edge_norms, edge_sparsity, prune_kan


def net(x, widths):
    rng, layers, variables = np.random.default_rng(0), [], []
    for width in widths:
        layer = KanDense(width)
        own = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))
        own["params"] = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), own["params"]
        )
        knots = jnp.linspace(-2.2, 2.2, 12)
        own["batch_stats"] = {"basis": {"knots": jnp.tile(knots, (x.shape[-1], 1))}}
        layers.append(layer)
        variables.append(own)
        x = jnp.zeros((len(x), width))
    return layers, variables


def run(layers, variables, x):
    for layer, own in zip(layers, variables):
        x = layer.apply(own, x)
    return x


def test_a_node_that_gives_or_gets_nothing_goes():
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(30, 2)), jnp.float32)
    layers, variables = net(x, (4, 3))
    first, second = (own["params"] for own in variables)
    for name in first:
        first[name] = first[name].at[..., 1].set(0)  # gets nothing
        second[name] = second[name].at[2].set(0)  # gives nothing
        # What has nothing to read gives a constant: that goes too.
        second[name] = second[name].at[1].set(0)
    small, kept = prune_kan(layers, variables, x)
    assert [layer.features for layer in small] == [2, 3]
    np.testing.assert_allclose(run(small, kept, x), run(layers, variables, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="leaves no node behind layer 0"):
        prune_kan(layers, variables, x, threshold=1e9)
    with pytest.raises(UserError, match="basis='radial'"):
        edge_norms(KanDense(3, "radial"), variables[0], x)


def test_an_edges_norm_is_that_of_the_layer_with_it_alone():
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(7, 2)), jnp.float32)
    (layer,), (own,) = net(x, (3,))
    norms = edge_norms(layer, own, x)
    alone = {name: leaf.at[1].set(0) for name, leaf in own["params"].items()}
    expected = jnp.mean(jnp.abs(layer.apply({**own, "params": alone}, x)), 0)
    np.testing.assert_allclose(norms[0], expected, rtol=1e-4)
    even, one = jnp.full((2, 2), 0.25), jnp.zeros((2, 2)).at[0, 0].set(1)
    np.testing.assert_allclose(edge_sparsity(even), 1 + 2 * np.log(4), rtol=1e-6)
    assert float(edge_sparsity(one)) == 1
    assert np.isfinite(jax.grad(edge_sparsity)(one)).all()

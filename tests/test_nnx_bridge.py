"""Modules behind Flax's nnx bridge; docs/nnx.md itself runs in test_docs.py.

That no model has a parameter of a method's name is among ModelSuite's checks.
"""

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from scanmax.models.layers import BatchNorm


def wrapped(model, inputs):
    with nnx.use_eager_sharding(False):
        return nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0, dropout=1)).lazy_init(inputs)


def test_batch_statistics_move_where_the_call_says_so():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    net = wrapped(BatchNorm(), x)
    net(x)
    chex.assert_trees_all_equal(net.mean[...], jnp.zeros(4))
    net(x, train=True, mutable=["batch_stats"])
    assert isinstance(net.mean, nnx.BatchStat)
    chex.assert_trees_all_close(net.mean[...], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)

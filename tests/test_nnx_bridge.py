"""Models behind Flax's nnx bridge; docs/nnx.md itself runs in test_docs.py."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from scanmax.models import create_model, list_models, registry
from scanmax.models.layers import BatchNorm


def wrapped(model, inputs):
    with nnx.use_eager_sharding(False):
        return nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0, dropout=1)).lazy_init(inputs)


@pytest.mark.parametrize("family", sorted({registry.model_info(n).family for n in list_models()}))
def test_no_parameter_hides_behind_a_method(family):
    # nnx looks an attribute up among the module's methods before its parameters.
    name = list_models(family=family)[0]
    models, example = [create_model(name)], registry.model_info(name).example()
    if hasattr(models[0], "scan_layers") and isinstance(getattr(models[0], "mixer", ""), str):
        models.append(models[0].clone(scan_layers=True))
    for model in models:
        variables = jax.eval_shape(model.init, jax.random.key(0), example)
        for path in variables["params"]:
            assert not callable(getattr(type(model), path, None)), path


def test_batch_statistics_move_where_the_call_says_so():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    net = wrapped(BatchNorm(), x)
    net(x)
    chex.assert_trees_all_equal(net.mean[...], jnp.zeros(4))
    net(x, train=True, mutable=["batch_stats"])
    assert isinstance(net.mean, nnx.BatchStat)
    chex.assert_trees_all_close(net.mean[...], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)

"""TSM2: what its forecasts read, and that every parameter counts."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.models.sequence.tsm2 import Tsm2
from scanmax.testing.model_suite import COMPILER_OPTIONS

TIME, VARIATES, HORIZON = 6, 3, 2


def made(model, *inputs):
    """Random parameters, none at the value it starts from."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype), shapes
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_forecasts_train_every_parameter(dtype):
    series = jax.random.normal(jax.random.key(1), (2, TIME, VARIATES))
    auxiliary = jax.random.normal(jax.random.key(2), (2, TIME, 2))
    model = Tsm2(HORIZON, d_state=2, auxiliary_hidden=4, dtype=dtype)
    variables = made(model, series, auxiliary)

    def loss(variables):
        y = model.apply(variables, series, auxiliary)
        return jnp.sum(jnp.sin(1.0 + jnp.arange(y.size).reshape(y.shape)) * y), y

    run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=COMPILER_OPTIONS)
    gradients, y = run(variables)
    chex.assert_shape(y, (2, HORIZON, VARIATES))
    assert y.dtype == dtype
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert float(jnp.abs(gradient).max()) > 0, jax.tree_util.keystr(path)


def test_every_variate_and_time_is_read():
    series = jax.random.normal(jax.random.key(1), (1, TIME, VARIATES))
    model = Tsm2(HORIZON, depth=1, d_state=2)
    variables = made(model, series)
    run = jax.jacobian(lambda x: model.apply(variables, x)[0])
    influence = jax.jit(run, compiler_options=COMPILER_OPTIONS)(series)[:, :, 0]
    assert float(jnp.abs(influence).min()) > 0


def test_at_the_start_each_mixer_reads_the_one_before():
    series = jax.random.normal(jax.random.key(1), (1, TIME, VARIATES))
    variables = Tsm2(HORIZON, depth=1, d_state=2).init(jax.random.key(0), series)
    weights = nn.unbox(variables["params"])
    np.testing.assert_array_equal(weights["weights_variates_00"], [0, 1])
    np.testing.assert_array_equal(weights["weights_head"], [0, 0, 1])
    alone = Tsm2(HORIZON, depth=1, d_state=2, variate_mixer=None).init(jax.random.key(0), series)
    assert not any("variates" in name for name in alone["params"])

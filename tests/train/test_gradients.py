"""Gradient rules against their equations, and in the trainer's own step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet, step_loss
from scanmax.train.build import build
from scanmax.train.config import Config, OptimConfig
from scanmax.train.gradients import GRADIENTS


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_sam_is_its_equation_on_a_quadratic(adaptive, parts):
    rng = np.random.default_rng(0)
    rows, params = rng.normal(size=(4, 3)), {"a": rng.normal(size=2), "b": rng.normal(size=1)}
    rho = 0.3
    with jax.enable_x64(True):

        def loss(params, rows):
            weights = jnp.concatenate([params["a"], params["b"]])
            return jnp.mean(jnp.square(rows @ weights - 1))

        rule = GRADIENTS["sam"](rho=rho, adaptive=adaptive)
        given = jax.tree.map(jnp.asarray, params)
        step = step_loss(loss, jnp.asarray(rows), parts)
        (value, _), found = rule(step, given, jax.random.key(0))

    def slope(weights):
        return sum(2 * (row @ weights - 1) * row for row in rows) / len(rows)

    weights = np.concatenate([params["a"], params["b"]])
    scale = np.abs(weights) if adaptive else np.ones(3)
    first = slope(weights)
    uphill = weights + rho * scale**2 * first / np.linalg.norm(scale * first)
    expected = slope(uphill)
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), expected, rtol=1e-12)
    np.testing.assert_allclose(value, np.mean((rows @ weights - 1) ** 2), rtol=1e-12)
    assert np.abs(expected - first).max() > 1e-2


def test_a_vanishing_gradient_stays_finite():
    step = step_loss(lambda p, rows: jnp.sum(p) * 0 * jnp.mean(rows), jnp.ones((2, 1)))
    _, found = GRADIENTS["sam"]()(step, jnp.ones(3), jax.random.key(0))
    np.testing.assert_array_equal(found, 0)


def test_the_loss_of_a_step_is_differentiable_in_its_batch_too():
    step = step_loss(lambda p, rows: jnp.mean(jnp.sum(p * rows, 1) ** 2), jnp.ones((4, 2)), 2)
    slope = jax.grad(lambda rows: step(jnp.ones(2), rows)[0])(jnp.ones((4, 2)))
    np.testing.assert_allclose(slope, 1.0, rtol=1e-6)


def test_a_wrong_rho_is_one_line():
    config = Config(optim=OptimConfig(gradient="sam", gradient_kwargs={"rho": -1.0}), batch_size=16)
    with pytest.raises(UserError, match=r"config.optim.gradient 'sam': rho=-1.0"):
        build(config, pipeline=SmallImages(), model=SmallNet())


class SamSuite(ObjectiveSuite):
    fields = {
        "optim": OptimConfig(
            name="sgd", momentum=0.0, lr=1.0, gradient="sam", gradient_kwargs={"rho": 0.1}
        )
    }
    frozen = ("head_dist",)

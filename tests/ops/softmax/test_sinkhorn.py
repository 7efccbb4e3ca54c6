"""Transport plans against scaling iterations, and the assignment that they become."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class SinkhornTest(OpSuite):
    """Costs of 5 rows and 4 columns, with and without weights."""

    op = ops.sinkhorn
    reference = reference.sinkhorn
    options = {"epsilon": 0.5, "iterations": 6}
    cases = (
        OpCase(batch=(2,), options=options, weighed=True, full=True),
        OpCase(options=options),
    )
    errors = (
        ({"epsilon": 0.0}, ValueError, "epsilon=0.0; expected above 0"),
        ({"iterations": 0}, ValueError, "iterations=0; expected at least 1"),
        ({"row_weights": lambda _: jnp.ones(3)}, ValueError, r"row_weights has shape \(3,\)"),
    )

    def make_args(self, rng, case):
        args = {"cost": rng.uniform(0, 2, (*case.batch, 5, 4))}
        for name, size in (("row_weights", 5), ("column_weights", 4)):
            weights = rng.uniform(0.5, 1.5, (*case.batch, size))
            args[name] = weights / weights.sum() if getattr(case, "weighed", False) else None
        return args


def test_a_small_epsilon_finds_the_assignment():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, 32, 3))
    cost = np.square(points[0][:, None] - points[1][None]).sum(-1)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    with jax.enable_x64(True):
        plan = np.asarray(ops.sinkhorn(jnp.asarray(cost), epsilon=5e-3, iterations=3000))
    np.testing.assert_allclose(plan.sum(0), 1 / 32, rtol=1e-12)
    np.testing.assert_array_equal(plan.argmax(1), columns)
    np.testing.assert_allclose((plan * cost).sum(), cost[rows, columns].mean(), rtol=1e-3)


def test_rows_without_weight_take_no_part():
    cost = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 3)), jnp.float32)
    weights = jnp.array([0.5, 0.0, 0.5, 0.0])

    def spent(cost):
        return (ops.sinkhorn(cost, weights, epsilon=0.1) * cost).sum()

    plan = ops.sinkhorn(cost, weights, epsilon=0.1)
    alone = ops.sinkhorn(cost[::2], epsilon=0.1)
    np.testing.assert_allclose(plan[::2], alone, rtol=1e-5)
    np.testing.assert_array_equal(plan[1::2], 0)
    # Columns too, from the first iteration on.
    turned = ops.sinkhorn(cost.T, None, weights, epsilon=0.1, iterations=1)
    alone = ops.sinkhorn(cost[::2].T, epsilon=0.1, iterations=1)
    np.testing.assert_allclose(turned[:, ::2], alone, rtol=1e-5)
    slope = jax.grad(spent)(cost)
    assert np.isfinite(slope).all()
    assert not np.any(slope[1::2])

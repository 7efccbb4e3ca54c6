"""k-max pooling against ranks counted one by one."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class KMaxPoolTest(OpSuite):
    op = ops.k_max_pool
    reference = reference.k_max_pool
    cases = (
        OpCase(length=7, batch=(2,), full=True, ragged=True, options={"k": 3}),
        OpCase(length=2, options={"k": 4}),
        OpCase(length=5, batch=(1, 2), options={"k": 5}),
    )
    errors = (
        ({"k": 0}, ValueError, "k=0; expected at least 1"),
        ({"where": jnp.ones(3, bool)}, ValueError, r"where has shape \(3,\)"),
        ({"count": jnp.ones(3, int)}, ValueError, r"count has shape \(3,\)"),
    )

    def make_args(self, rng, case):
        args = {"x": rng.normal(size=(*case.batch, case.length, 3))}
        if getattr(case, "ragged", False):
            # Two tokens of the first row count, more of the second than are asked for.
            rows = np.arange(*case.batch)
            where = np.arange(case.length) < 2 + 4 * rows[:, None]
            args |= {"where": where, "count": 3 - rows}
        return args

    def poison(self, arrays, case):
        if "where" not in arrays:
            return None
        hidden = ~arrays["where"][..., None]
        return arrays | {"x": jnp.where(hidden, jnp.nan, arrays["x"])}


def test_equal_values_keep_their_order_and_padding_is_zero():
    x = jnp.array([2.0, 5.0, 5.0, 5.0, 1.0])[:, None]
    np.testing.assert_array_equal(ops.k_max_pool(x, 2)[:, 0], [5, 5])
    gradient = jax.grad(lambda x: ops.k_max_pool(x, 2).sum())(x)
    np.testing.assert_array_equal(gradient[:, 0], [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(ops.k_max_pool(-x, 7)[:, 0], [-2, -5, -5, -5, -1, 0, 0])


def test_order_tells_what_max_and_mean_do_not():
    """Of a detector of A and one of B the largest two values say which came first."""
    orders = jnp.zeros((2, 9, 1)).at[0, 2].set(1).at[0, 7].set(2).at[1, 2].set(2).at[1, 7].set(1)
    for pool in (lambda x: x.max(1), lambda x: x.mean(1), lambda x: ops.k_max_pool(x, 1)):
        first, second = pool(orders)
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(ops.k_max_pool(orders, 2)[..., 0], [[1, 2], [2, 1]])

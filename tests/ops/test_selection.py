"""The largest few, by bits, against sorting: any size, sign, precision, and equal numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.ops.selection import among_largest, kth_largest


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_they_are_what_sorting_finds(dtype, float64):
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(3, 2, 17)) * 10.0 ** rng.integers(-6, 5, (3, 2, 17))
    drawn[0, 0, 3:9] = drawn[0, 0, 2]  # equal ones
    drawn[0, 1, :4] = 0.0, -0.0, np.inf, -np.inf
    x = jnp.asarray(drawn, dtype)
    ordered, order = jax.lax.top_k(x, 17)
    for k in (1, 2, 7, 16, 17):
        np.testing.assert_array_equal(kth_largest(x, k), ordered[..., k - 1])
        taken = np.zeros(x.shape, bool)
        np.put_along_axis(taken, np.asarray(order[..., :k]), True, -1)
        # sorting orders the zeros by their signs, which here are equal
        zeros = np.asarray(x) == 0
        found = np.asarray(among_largest(x, k))
        np.testing.assert_array_equal(found | zeros, taken | zeros)
        assert (found.sum(-1) == k).all()
